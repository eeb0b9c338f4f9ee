"""用中文生成文本：逐字显示，汉字不会被截成半个。 python examples/chinese_chat.py

gemma3-270m 是基础模型，没有聊天模板，所以这里给它一个对话的开头，让它续写；stop 使它只答一句。
"""

import tuili

OPENING = "以下是一位耐心的老师和学生的对话。\n\n学生：{}\n老师："

with tuili.LLM("gemma3-270m") as llm:
    for question in ("中国的首都是哪里？", "为什么天空是蓝色的？"):
        print(f"学生：{question}\n老师：", end="")
        for chunk in llm.stream(OPENING.format(question), max_tokens=80, stop=["\n", "学生："]):
            print(chunk.text, end="", flush=True)
        print("\n")
