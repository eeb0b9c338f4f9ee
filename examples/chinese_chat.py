"""用中文对话：逐字显示，汉字不会被截成半个。 python examples/chinese_chat.py

gemma3-270m 是基础模型，没有聊天模板，所以用几个例子告诉它对话的样子；stop 使它只答一行。
几个提问的开头相同，这一段只计算一次（cached_tokens）。模型很小，答案不一定对。
"""

import tuili

EXAMPLES = """中文：早上好。
英文：Good morning.
中文：我喜欢喝茶。
英文：I like drinking tea.
中文：昨天晚上下了一场大雨。
英文：It rained heavily last night.
"""

with tuili.LLM("gemma3-270m") as llm:
    for sentence in ("你好，世界。", "今天天气很好。", "图书馆在哪里？"):
        print(f"中文：{sentence}\n英文：", end="")
        handle = llm.submit(f"{EXAMPLES}中文：{sentence}\n英文：", max_tokens=40, stop="\n")
        for chunk in handle:
            print(chunk.text, end="", flush=True)
        print(f"\n  （{handle.result().metrics['cached_tokens']} 个词元来自缓存）")
