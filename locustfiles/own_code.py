"""Your own prompts, and existing SDK code measured as it is.

locust -f locustfiles/own_code.py --headless -u 4 -r 4 -t 20s
"""

from locust import between, tag, task

from loadlib import LLMUser


class Support(LLMUser):
    """A plain locust.User."""

    models = ["gpt-4o-mini"]
    wait_time = between(0.5, 1.5)

    @tag("chat")
    @task(9)
    def ask(self):
        question = [{"role": "user", "content": "Where is my order?"}]
        reply = self.llm.chat(question, max_tokens=32, name="support")
        if not reply.text:
            reply.fail("empty answer")

    @task
    def own_code(self):
        hello = [{"role": "user", "content": "Hello"}]
        list(self.openai.chat.completions.create(
            model=self.model, messages=hello, max_tokens=16, stream=True,
            stream_options={"include_usage": True},
        ))  # fmt: skip
