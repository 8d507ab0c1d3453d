# ruff: noqa
# fmt: off
import sglang as sgl
llm = sgl.Engine(
    model_path="meta-llama/Llama-3.1-8B-Instruct",
    tp_size=1
)
output = llm.generate(
    "파이썬의 GIL이 뭔지 설명해줘",
    sgl.SamplingParams(
        temperature=0.7,
        max_new_tokens=512,
        top_p=0.9
    )
)
print(output["text"])
prompts = [
    "Python GIL이란?",
    "FastAPI와 Django 차이는?",
    "Docker와 VM의 차이는?",
    "REST API란 무엇인가?"
]
outputs = llm.generate(
    prompts,
    sgl.SamplingParams(temperature=0.7, max_new_tokens=256)
)
for prompt, output in zip(prompts, outputs):
    print(f"Q: {prompt}")
    print(f"A: {output['text'][:100]}...")
    print()
llm.shutdown()
