// A struct of settings as Python makes and reads it: a line per field, which is an argument of the
// constructor, by name alone, and a property. Defaults are those of the struct.
#pragma once

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/names.h"
#include "bindings/numpy.h"

namespace tuili::bindings {

template <class Spec>
class Fields {
 public:
  using Set = std::function<void(Spec&, const py::handle&)>;

  Fields(py::module_& module, const char* name) : class_(module, name), name_(name) {}

  template <class Value>
  Fields& field(const char* name, Value Spec::* member) {
    class_.def_readonly(name, member);
    return argument(name, [member](Spec& s, const py::handle& value) { s.*member = value.cast<Value>(); });
  }

  // None leaves what the struct has.
  template <class Value>
  Fields& optional(const char* name, Value Spec::* member) {
    class_.def_readonly(name, member);
    return argument(name, [member](Spec& s, const py::handle& value) {
      if (!value.is_none()) s.*member = value.cast<Value>();
    });
  }

  // An enumerator by its name.
  template <class Value, size_t kCount>
  Fields& field(const char* name, Value Spec::* member, const Named<Value> (&names)[kCount]) {
    return field(
        name, [member, &names](const Spec& s) { return name_of(s.*member, names); },
        [name, member, &names](Spec& s, const py::handle& value) {
          s.*member = choose(value.cast<std::string>(), name, names);
        });
  }

  template <class Get>
  Fields& field(const char* name, Get get, Set set) {
    class_.def_property_readonly(name, std::move(get));
    return argument(name, std::move(set));
  }

  // The fields before this must be given. Call it once.
  Fields& needed() {
    n_needed_ = arguments_.size();
    return *this;
  }

  // `check` is called with what was made.
  py::class_<Spec> done(const std::function<void(Spec&)>& check = {}) {
    const std::string text = signature();
    class_.def(
        py::init([name = name_, arguments = arguments_, n = n_needed_, check](const py::kwargs& given) {
          Spec spec = make(name, arguments, n, given);
          if (check) check(spec);
          return spec;
        }),
        text.c_str());
    return class_;
  }

 private:
  struct Argument {
    const char* name;
    Set set;
  };

  Fields& argument(const char* name, Set set) {
    arguments_.push_back({name, std::move(set)});
    return *this;
  }

  static Spec make(const char* name, const std::vector<Argument>& arguments, size_t n_needed,
                   const py::kwargs& given) {
    Spec spec;
    size_t n_found = 0;
    for (size_t i = 0; i < arguments.size(); ++i) {
      const Argument& argument = arguments[i];
      const py::handle value = PyDict_GetItemString(given.ptr(), argument.name);
      if (!value) {
        if (i < n_needed) throw py::type_error(join(name, ": the argument ", argument.name, " is missing"));
        continue;
      }
      ++n_found;
      try {
        argument.set(spec, value);
      } catch (const py::cast_error&) {
        throw py::type_error(join(name, ": ", argument.name, " cannot be ", std::string(py::repr(value))));
      }
    }
    if (n_found == given.size()) return spec;
    for (const auto& [key, value] : given)
      if (std::ranges::none_of(arguments, [&](const Argument& a) { return key.equal(py::str(a.name)); }))
        throw py::type_error(join(name, " has no argument ", std::string(py::repr(key))));
    return spec;
  }

  // What `help` shows: Name(*, a, b=1).
  std::string signature() const {
    const py::object defaults = py::cast(Spec());
    std::string text = join(name_, "(*");
    for (size_t i = 0; i < arguments_.size(); ++i) {
      text += join(", ", arguments_[i].name);
      if (i < n_needed_) continue;
      const std::string value = py::repr(defaults.attr(arguments_[i].name));
      text += "=" + (value.starts_with('<') ? "..." : value);
    }
    return text + ")";
  }

  py::class_<Spec> class_;
  const char* name_;
  std::vector<Argument> arguments_;
  size_t n_needed_ = 0;
};

}  // namespace tuili::bindings
