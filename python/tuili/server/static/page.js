// The chat page: a conversation with the server's own /v1/chat/completions. Nothing is kept but settings.
"use strict";

const TEXTS = {
  en: {
    connecting: "connecting …", newChat: "New chat", conversation: "Conversation", message: "Message",
    empty: "Ask something. It stays on this server.", placeholder: "Message (Enter sends, Shift+Enter breaks the line)",
    send: "Send", stop: "Stop", again: "Regenerate", settings: "Settings", system: "System prompt",
    temperature: "Temperature", topP: "Top-p", topK: "Top-k (0: off)", repetition: "Repetition penalty",
    maxTokens: "Most tokens", seed: "Seed (empty: random)", probabilities: "Token probabilities",
    keys: "Enter sends, Esc stops. With probabilities on: point at a word, or focus an answer and use ← and →.",
    user: "You", assistant: "Model", theme: { auto: "Auto", light: "Light", dark: "Dark" }, themeIs: "Colours",
    tokens: "tokens", perSecond: "tok/s", first: "first token", done: "The answer is complete.",
    stopped: "stopped", length: "cut at the most tokens", deadline: "cut at the deadline",
    full: "The server is full. Try again in a moment.", denied: "The server wants an API key.",
    gone: "The server cannot be reached.", failed: "The server failed.", vectors: "This model makes vectors, not text.",
    other: "others",
  },
  zh: {
    connecting: "正在连接……", newChat: "新对话", conversation: "对话", message: "消息",
    empty: "请提问。内容只留在这台服务器上。", placeholder: "消息（回车发送，Shift+回车换行）",
    send: "发送", stop: "停止", again: "重新生成", settings: "设置", system: "系统提示词",
    temperature: "温度", topP: "Top-p", topK: "Top-k（0：不限）", repetition: "重复惩罚",
    maxTokens: "最多词元数", seed: "随机种子（空：随机）", probabilities: "词元概率",
    keys: "回车发送，Esc 停止。显示概率时：用鼠标指向文字，或选中回答后用 ← 和 → 移动。",
    user: "你", assistant: "模型", theme: { auto: "自动", light: "浅色", dark: "深色" }, themeIs: "配色",
    tokens: "词元", perSecond: "词元/秒", first: "首个词元", done: "回答完毕。",
    stopped: "已停止", length: "达到最多词元数", deadline: "超过时限",
    full: "服务器已满，请稍后再试。", denied: "服务器需要 API 密钥。",
    gone: "无法连接服务器。", failed: "服务器出错。", vectors: "这个模型生成向量，不生成文本。",
    other: "其余",
  },
};
const NUMBERS = ["temperature", "top_p", "top_k", "repetition_penalty", "max_tokens", "seed"];
const THEMES = ["auto", "light", "dark"];
const TOP = 5;

const $ = (id) => document.getElementById(id);
const messages = []; // {role, content}
let texts = TEXTS.en;
let model = null;
let running = null; // the AbortController of the answer that is being written

// --- settings --------------------------------------------------------------------------------------------

function remembered() {
  try { return JSON.parse(localStorage.getItem("tuili")) || {}; } catch { return {}; }
}

function remember() {
  const kept = { language: document.documentElement.lang, theme: document.documentElement.dataset.theme || "auto" };
  for (const id of [...NUMBERS, "system"]) kept[id] = $(id).value;
  kept.probabilities = $("probabilities").checked;
  try { localStorage.setItem("tuili", JSON.stringify(kept)); } catch { /* private windows have no storage */ }
}

function speak(language) {
  texts = TEXTS[language];
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-text]")) {
    element.textContent = texts[element.dataset.text];
  }
  for (const element of document.querySelectorAll("[data-placeholder]")) {
    element.placeholder = texts[element.dataset.placeholder];
  }
  $("language").textContent = language === "en" ? "中文" : "English";
  $("language").lang = language === "en" ? "zh" : "en";
  if (model) showModel();
  paint(document.documentElement.dataset.theme || "auto");
}

function paint(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  $("theme").textContent = texts.theme[theme];
  $("theme").setAttribute("aria-label", `${texts.themeIs}: ${texts.theme[theme]}`);
}

function showNumbers() {
  for (const output of document.querySelectorAll("output")) {
    output.textContent = Number($(output.getAttribute("for")).value).toFixed(2);
  }
}

function sampling() {
  const fields = {};
  for (const id of NUMBERS) {
    if ($(id).value !== "") fields[id] = Number($(id).value);
  }
  return fields;
}

// --- the conversation ------------------------------------------------------------------------------------

function showMessage(role, content) {
  const item = document.createElement("li");
  item.className = role;
  const who = document.createElement("p");
  who.className = "who";
  who.dataset.text = role;
  who.textContent = texts[role];
  const words = document.createElement("div");
  words.className = "words";
  words.textContent = content;
  item.append(who, words);
  $("messages").append(item);
  $("empty").hidden = true;
  scrollDown(true);
  return item;
}

function scrollDown(always) {
  const view = $("conversation");
  const near = view.scrollHeight - view.scrollTop - view.clientHeight < 120;
  if (always || near) view.scrollTop = view.scrollHeight;
}

function showProblem(text) {
  $("problem").textContent = text || "";
  $("problem").hidden = !text;
  if (text) scrollDown(true);
}

function showModel() {
  $("model").removeAttribute("data-text");
  $("model").textContent = model.kind === "encoder" ? `${model.id} · ${texts.vectors}` : model.id;
}

function setRunning(controller) {
  running = controller;
  $("send").disabled = Boolean(controller) || !model || model.kind === "encoder";
  $("stop").disabled = !controller;
  $("again").disabled = Boolean(controller) || !messages.some((message) => message.role === "user");
}

async function problemOf(response) {
  if (response.status === 429) return texts.full;
  if (response.status === 401) return texts.denied;
  try { return (await response.json()).error.message; } catch { return texts.failed; }
}

// --- an answer -------------------------------------------------------------------------------------------

async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (held + value).split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const data = part.slice("data: ".length);
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

// Shows the text of an answer, each token in an element of its own that knows what else could have come.
class Writer {
  constructor(item) {
    this.words = item.querySelector(".words");
    this.text = "";
    this.shown = 0; // characters of the text that have an element
    this.waiting = []; // tokens whose text has not come yet
    this.decoder = new TextDecoder();
    this.nTokens = 0;
  }

  add(choice) {
    this.text += choice.delta.content || "";
    const tokens = choice.logprobs ? choice.logprobs.content : [];
    this.nTokens += tokens.length;
    for (const token of tokens) {
      const piece = this.decoder.decode(new Uint8Array(token.bytes), { stream: true });
      if (piece) this.waiting.push({ piece, token });
    }
    while (this.waiting.length && this.text.length - this.shown >= this.waiting[0].piece.length) {
      const { piece, token } = this.waiting.shift();
      this.#place(piece, token);
    }
    scrollDown(false);
  }

  finish() {
    const rest = this.text.slice(this.shown);
    if (rest) this.words.append(rest);
  }

  #place(piece, token) {
    // SentencePiece's first token has a space that the text has not.
    const spoken = this.shown || this.text.startsWith(piece) ? piece : piece.trimStart();
    const at = spoken ? this.text.indexOf(spoken, this.shown) : -1;
    if (at < 0) return; // a special token
    if (at > this.shown) this.words.append(this.text.slice(this.shown, at));
    this.shown = at;
    this.#append(spoken, token);
  }

  #append(piece, token) {
    const element = document.createElement("span");
    const probability = Math.exp(token.logprob);
    element.className = `t${1 + [0.1, 0.3, 0.6, 0.9].filter((bound) => probability >= bound).length}`;
    element.textContent = piece;
    element.alternatives = { chosen: token, top: token.top_logprobs };
    this.words.append(element);
    this.shown += piece.length;
  }
}

async function answer() {
  const controller = new AbortController();
  setRunning(controller);
  showProblem("");
  const item = showMessage("assistant", "");
  item.classList.add("writing");
  item.setAttribute("aria-busy", "true");
  const writer = new Writer(item);
  const facts = { start: performance.now(), first: 0, reason: "" };
  try {
    const problem = await read(writer, facts, controller.signal);
    if (problem) showProblem(problem);
  } catch (error) {
    if (error.name === "AbortError") facts.reason = "stopped";
    else showProblem(texts.gone);
  }
  writer.finish();
  item.classList.remove("writing");
  item.removeAttribute("aria-busy");
  if (writer.text && item.isConnected) { // a new chat may have begun
    messages.push({ role: "assistant", content: writer.text });
    showFacts(item, writer, facts);
    $("status").textContent = texts.done;
  } else {
    item.remove();
  }
  showProbabilities();
  setRunning(null);
}

// The problem that ended the answer, if any.
async function read(writer, facts, signal) {
  const system = $("system").value.trim();
  const body = {
    model: model.id,
    messages: system ? [{ role: "system", content: system }, ...messages] : messages,
    stream: true,
    logprobs: true,
    top_logprobs: TOP,
    ...sampling(),
  };
  const headers = { "Content-Type": "application/json" };
  const response = await fetch("/v1/chat/completions", { method: "POST", headers, body: JSON.stringify(body), signal });
  if (!response.ok) return problemOf(response);
  for await (const event of eventsOf(response)) {
    if (event.error) return event.error.message;
    const choice = event.choices[0];
    if (choice.delta.content && !facts.first) facts.first = performance.now();
    writer.add(choice);
    facts.reason = choice.finish_reason || facts.reason;
  }
  return "";
}

function showFacts(item, writer, facts) {
  const seconds = (performance.now() - facts.first) / 1000;
  const parts = [`${writer.nTokens} ${texts.tokens}`];
  if (writer.nTokens > 1 && seconds > 0) parts.push(`${((writer.nTokens - 1) / seconds).toFixed(1)} ${texts.perSecond}`);
  parts.push(`${texts.first} ${((facts.first - facts.start) / 1000).toFixed(2)} s`);
  if (["stopped", "length", "deadline"].includes(facts.reason)) parts.push(texts[facts.reason]);
  const line = document.createElement("p");
  line.className = "facts";
  line.textContent = parts.join(" · ");
  item.append(line);
}

// --- probabilities ---------------------------------------------------------------------------------------

function showProbabilities() {
  const on = $("probabilities").checked;
  for (const words of document.querySelectorAll(".assistant .words")) {
    words.classList.toggle("likely", on);
    if (on) words.tabIndex = 0;
    else words.removeAttribute("tabindex");
  }
  if (!on) $("token").hidden = true;
}

function showToken(element) {
  document.querySelector("span.here")?.classList.remove("here");
  element.classList.add("here");
  const { chosen, top } = element.alternatives;
  const isChosen = (one) => String(one.bytes) === String(chosen.bytes); // many tokens are no text by themselves
  const rows = top.some(isChosen) ? top : [...top, chosen];
  const table = document.createElement("table");
  let left = 1;
  for (const one of rows) {
    left -= Math.exp(one.logprob);
    table.append(row(JSON.stringify(one.token), one.logprob, isChosen(one)));
  }
  table.append(row(texts.other, Math.log(Math.max(left, 0)), false));
  $("token").replaceChildren(table);
  $("token").hidden = false;
}

function row(name, logprob, isChosen) {
  const line = document.createElement("tr");
  line.className = isChosen ? "chosen" : "";
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = name;
  const cell = document.createElement("td");
  cell.textContent = `${(100 * Math.exp(logprob)).toFixed(1)} %`;
  line.append(head, cell);
  return line;
}

function moveToken(event) {
  if (event.key !== "ArrowRight" && event.key !== "ArrowLeft") return;
  const words = event.target.closest(".likely");
  if (!words || !words.firstElementChild) return;
  const here = words.querySelector("span.here");
  const next = event.key === "ArrowRight" ? here?.nextElementSibling : here?.previousElementSibling;
  showToken(next || here || words.firstElementChild);
  event.preventDefault();
}

// --- what the user does ----------------------------------------------------------------------------------

function send(event) {
  event.preventDefault();
  const content = $("input").value.trim();
  if (!content || $("send").disabled) return;
  $("input").value = "";
  messages.push({ role: "user", content });
  showMessage("user", content);
  answer();
}

function again() {
  if (running) return;
  if (messages.at(-1)?.role === "assistant") {
    messages.pop();
    $("messages").lastElementChild.remove();
  }
  answer();
}

function startAfresh() {
  running?.abort();
  messages.length = 0;
  $("messages").replaceChildren();
  $("empty").hidden = false;
  $("token").hidden = true;
  showProblem("");
  setRunning(running);
  $("input").focus();
}

async function connect() {
  try {
    const response = await fetch("/v1/models");
    if (response.ok) {
      model = (await response.json()).data[0];
      showModel();
    } else showProblem(await problemOf(response));
  } catch {
    showProblem(texts.gone);
  }
  setRunning(null);
}

function listen() {
  $("form").addEventListener("submit", send);
  $("stop").addEventListener("click", () => running?.abort());
  $("again").addEventListener("click", again);
  $("new").addEventListener("click", startAfresh);
  $("input").addEventListener("keydown", (event) => {
    // While an input method composes, Enter chooses a character.
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") running?.abort();
  });
  $("messages").addEventListener("mouseover", (event) => {
    if (event.target.alternatives && $("probabilities").checked) showToken(event.target);
  });
  $("messages").addEventListener("keydown", moveToken);
  $("probabilities").addEventListener("change", showProbabilities);
  $("language").addEventListener("click", () => speak(document.documentElement.lang === "en" ? "zh" : "en"));
  $("theme").addEventListener("click", () => {
    const now = document.documentElement.dataset.theme || "auto";
    paint(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
  });
  $("settings").addEventListener("input", showNumbers);
  for (const event of ["change", "click"]) document.addEventListener(event, remember);
}

function begin() {
  const kept = remembered();
  for (const id of [...NUMBERS, "system"]) {
    if (typeof kept[id] === "string") $(id).value = kept[id];
  }
  $("probabilities").checked = kept.probabilities === true;
  speak(kept.language in TEXTS ? kept.language : navigator.language.startsWith("zh") ? "zh" : "en");
  paint(THEMES.includes(kept.theme) ? kept.theme : "auto");
  if (matchMedia("(max-width: 50rem)").matches) $("settings").open = false;
  showNumbers();
  listen();
  connect();
  $("input").focus();
}

begin();
