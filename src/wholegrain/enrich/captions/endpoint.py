"""One question to an OpenAI-compatible endpoint (vLLM, ``transformers serve``, a hosted one): asked until there is an answer, or none to be had.

Time-outs, lost connections, answers that were cut or make no sense, and what a server says of itself (408, 409, 429, 5xx) are tried again
after a while: twice as long each time, with chance in it so that threads do not come back together, and never sooner than
``Retry-After`` says. What is wrong with the question (400, 413, 422) is a failure of that question; what is wrong with all questions (401,
402, 403, 404, an endpoint that nobody answers at) stops the run.
"""

from __future__ import annotations

import base64
import email.utils
import io
import json
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image

from wholegrain.data.pictures import open_picture
from wholegrain.enrich.captions.prompting import Prompt
from wholegrain.enrich.captions.spending import Budget, Limit, Pace
from wholegrain.enrich.runner.journal import Answer
from wholegrain.errors import MachineError, UserError
from wholegrain.structure import JsonTable

if TYPE_CHECKING:
    from openai import APIStatusError, OpenAI
    from openai.types.chat import ChatCompletionMessageParam

_KINDS = {b"\xff\xd8\xff": "jpeg", b"\x89PNG": "png", b"RIFF": "webp"}
_LONGEST_WAIT = 60.0
_STOPPING = {
    401: "look at the key",
    402: "look at the account",
    403: "look at the key",
    404: "look at the address and the model's name",
}
_AGAIN = (408, 409, 425, 429)
_UNFINISHED = ("", "error", "abort")


@dataclass(frozen=True)
class Endpoint:
    """Where and how to ask.

    Attributes:
        url: up to and with ``/v1``.
        model: its name there.
        concurrency: questions under way at a time.
        per_minute: the most questions a minute; 0 is no limit.
        timeout: seconds for an answer.
        attempts: at one question.
        first_wait: seconds before the second attempt, about; each further wait is twice as long, up to a minute.
        limit: what may be spent.
        key: the name of the environment variable with the key.
        max_side: a larger image is made smaller until its longer side has so many pixels; 0 sends every image as it is.
        extra: further fields of the request, such as ``{"top_p": 0.9}``.
    """

    url: str
    model: str
    concurrency: int = 16
    per_minute: float = 0
    timeout: float = 120.0
    attempts: int = 6
    first_wait: float = 1.0
    limit: Limit = field(default_factory=Limit)
    key: str = "OPENAI_API_KEY"
    max_side: int = 1024
    extra: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.attempts < 1 or self.timeout <= 0 or self.per_minute < 0:
            raise UserError(
                "An endpoint needs a concurrency and attempts of at least 1, a time-out above 0 and no negative pace."
            )


class NoAnswerError(Exception):
    """This question has no answer: why."""


class _BadAnswerError(Exception):
    """What came is not an answer; another attempt may bring one.

    Attributes:
        spent: tokens in and out, if the endpoint said.
    """

    def __init__(self, message: str, spent: tuple[int, int] | None = None) -> None:
        super().__init__(message)
        self.spent = spent


class Client:
    """Asks an endpoint; used by many threads at once.

    Attributes:
        budget, pace: of all calls.
        stopped: set when no further call is wanted.
        calls: made so far.
    """

    def __init__(self, endpoint: Endpoint, budget: Budget) -> None:
        self.endpoint, self.budget, self.pace = endpoint, budget, Pace(endpoint.per_minute)
        self.stopped, self.calls = threading.Event(), 0
        self._openai = _client_of(endpoint)
        self._newer_field = False
        self._lock = threading.Lock()

    def ask(self, prompt: Prompt, picture: str, seed: int, lost: Callable[[int, int, str], None]) -> Answer:
        """The answer to a prompt and a picture (a data URL).

        Args:
            lost: called with tokens in, tokens out and the reason when an attempt failed that may have cost something.

        Raises:
            NoAnswerError: there is none, after all attempts.
            UserError: no call can succeed, or the budget is used up.
            MachineError: the endpoint cannot be reached.
        """
        reason = "it was not asked"
        for attempt in range(self.endpoint.attempts):
            self.pace.wait(self.stopped)
            if self.stopped.is_set():
                raise NoAnswerError("the run was stopped")
            with self.budget.call(prompt.max_tokens) as cost:
                most = (self.budget.most_in(), prompt.max_tokens)
                try:
                    answer = self._call(prompt, picture, seed, most)
                except Exception as error:
                    reason, wait, spent = self._judged(error, most, last=attempt + 1 == self.endpoint.attempts)
                    if spent:
                        cost[:] = spent
                        lost(*spent, reason)
                else:
                    cost[:] = answer.tokens_in, answer.tokens_out
                    return answer
            if wait is None:
                raise NoAnswerError(reason)
            self._rest(attempt, wait)
        raise NoAnswerError(f"{reason}, {self.endpoint.attempts} times")

    def _rest(self, attempt: int, seconds: float) -> None:
        if seconds:
            self.pace.pause(min(seconds, 10 * _LONGEST_WAIT))  # for all threads: they share what is limited
        wait = min(self.endpoint.first_wait * 2**attempt, _LONGEST_WAIT)
        if attempt + 1 < self.endpoint.attempts:
            self.stopped.wait(wait * random.uniform(0.5, 1.0))

    def _call(self, prompt: Prompt, picture: str, seed: int, most: tuple[int, int]) -> Answer:
        with self._lock:
            self.calls += 1
        system: list[ChatCompletionMessageParam] = [{"role": "system", "content": prompt.system}] if prompt.system else []
        parts = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": prompt.text}]
        settings: JsonTable = {"temperature": prompt.temperature}
        settings["max_completion_tokens" if self._newer_field else "max_tokens"] = prompt.max_tokens
        if prompt.temperature:
            settings["seed"] = seed
        came = self._openai.chat.completions.with_raw_response.create(
            model=self.endpoint.model,
            messages=[*system, {"role": "user", "content": parts}],
            extra_body=self.endpoint.extra or None,
            **settings,
        )
        answer = _answer_of(came.http_response.content, most)
        self.budget.learn(answer.tokens_in if answer.tokens_in != most[0] else 0)
        return answer

    def _judged(self, error: Exception, most: tuple[int, int], last: bool) -> tuple[str, float | None, tuple[int, int] | None]:
        """Why there is no answer; how long the endpoint wants to be left alone, ``None`` for ever; and what it may have cost."""
        import openai

        if isinstance(error, _BadAnswerError):
            return str(error), 0.0, error.spent or most
        if isinstance(error, openai.APIStatusError):
            return self._refused(error)
        if isinstance(error, openai.APITimeoutError) and not _unreached(error):
            return f"no answer in {self.endpoint.timeout:g} s", 0.0, most
        if isinstance(error, openai.APIConnectionError):
            if not _unreached(error):
                return "the connection was lost", 0.0, most
            if last:
                raise MachineError(
                    f"{self.endpoint.url} cannot be reached; all answers are kept, and the same command goes on from there."
                ) from error
            return "the endpoint cannot be reached", 0.0, None
        raise error

    def _refused(self, error: APIStatusError) -> tuple[str, float | None, None]:
        code, message = error.status_code, _message_of(error)
        if code == 400 and "max_completion_tokens" in message:  # another thread may have learnt it in between
            self._newer_field = True
            return message, 0.0, None
        if code in _STOPPING or (code == 429 and "insufficient_quota" in message):
            hint = _STOPPING.get(code, "look at the account")
            raise UserError(f"{self.endpoint.url} refuses {self.endpoint.model} ({code}: {message}); {hint}.")
        if code in _AGAIN or code >= 500:
            return f"the endpoint said {code} ({message})", _retry_after(error.response.headers), None
        return f"the endpoint said {code} ({message})", None, None


def model_of(url: str, key: str = "OPENAI_API_KEY") -> str:
    """The name of the one model that an endpoint has. Raises :class:`UserError` if it has several, or does not answer."""
    import openai

    try:
        names = [model.id for model in _client_of(Endpoint(url, "", timeout=30, key=key)).models.list()]
    except (openai.OpenAIError, ValueError) as error:
        raise UserError(f"{url} does not say which models it has ({type(error).__name__}); name one, as in NAME@{url}.") from None
    if len(names) != 1:
        raise UserError(f"{url} has {len(names)} models ({', '.join(names[:5])}); name one, as in NAME@{url}.")
    return names[0]


def data_url(image: bytes, max_side: int = 0) -> str:
    """An image's file as a data URL: as it is if it is a JPEG, PNG or WebP that is not too large, else as a new JPEG."""
    kind = next((name for start, name in _KINDS.items() if image.startswith(start)), "")
    with open_picture(image) as picture:
        longest = max(picture.size)
        if not kind or (max_side and longest > max_side):
            small = picture.convert("RGB")
            if max_side:
                small.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
            file = io.BytesIO()
            small.save(file, "JPEG", quality=95)
            kind, image = "jpeg", file.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _client_of(endpoint: Endpoint) -> OpenAI:
    try:
        import openai
    except ImportError:
        raise UserError('An endpoint needs the client "openai"; install it with: pip install "wholegrain[enrich]"') from None
    return openai.OpenAI(
        base_url=endpoint.url, api_key=os.environ.get(endpoint.key) or "none", timeout=endpoint.timeout, max_retries=0
    )


def _answer_of(body: bytes, most: tuple[int, int]) -> Answer:
    """Reads an answer. What the endpoint did not count is taken as the most that it can have been."""
    try:
        values = json.loads(body)
    except ValueError:
        raise _BadAnswerError("the answer is no JSON") from None
    if not isinstance(values, dict):
        raise _BadAnswerError("the answer is no JSON object")
    usage = values.get("usage") if isinstance(values.get("usage"), dict) else {}
    assert isinstance(usage, dict)
    spent = _count(usage.get("prompt_tokens"), most[0]), _count(usage.get("completion_tokens"), most[1])
    try:
        choice = values["choices"][0]
        text, finish = choice["message"]["content"], choice.get("finish_reason") or ""
    except (KeyError, IndexError, TypeError, AttributeError):
        raise _BadAnswerError("the answer has no choice with a message", spent) from None
    if finish in _UNFINISHED or not isinstance(finish, str):
        raise _BadAnswerError(f"the answer was not finished ({finish or 'no finish_reason'})", spent)
    if finish != "content_filter" and (not isinstance(text, str) or not text.strip()):
        raise _BadAnswerError("the answer is empty", spent)
    return Answer(text if isinstance(text, str) else "", finish, *spent)


def _count(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else otherwise


def _message_of(error: APIStatusError) -> str:
    """What an endpoint says of a refusal, in one short line."""
    body = error.body if isinstance(error.body, dict) else {}
    message = " ".join(str(part) for part in (body.get("code"), body.get("message") or body.get("detail")) if part)
    return " ".join((message or str(error)).split())[:200]


def _unreached(error: Exception) -> bool:
    """Whether no connection came about: then nothing was asked."""
    cause = error.__cause__
    return type(cause).__name__ in ("ConnectError", "ConnectTimeout", "UnsupportedProtocol")


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the endpoint asks for, written as a number or as a date; 0 if it does not."""
    wait = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(wait))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(wait).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
