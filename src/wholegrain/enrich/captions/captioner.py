"""Captions from a vision-language model behind an endpoint: one model and several prompts, each giving captions of a role."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from wholegrain.data.record import GeneratedCaption, Record
from wholegrain.enrich.captions.endpoint import Client, Endpoint, NoAnswerError, data_url
from wholegrain.enrich.captions.prompting import Prompt, cleaned
from wholegrain.enrich.captions.spending import Budget
from wholegrain.enrich.runner.journal import Answer, Journal, call_id
from wholegrain.enrich.runner.stage import CallStage, Failure, Picture, Rows
from wholegrain.errors import MachineError, UserError


class EndpointCaptions(CallStage):
    """A caption for each image and prompt.

    Args:
        endpoint: where to ask.
        prompts: what to ask.
        seed: sent along with prompts that have a temperature.
    """

    name, table, looks, place = "captions", "captions", "file", "calls"

    def __init__(self, endpoint: Endpoint, prompts: Sequence[Prompt], seed: int = 0) -> None:
        self.endpoint, self.prompts, self.seed = endpoint, tuple(prompts), seed
        self.identity = {
            "method": "chat completions",
            "model": endpoint.model,
            "prompts": [prompt.identity() for prompt in prompts],
            "seed": seed,
            "max_side": endpoint.max_side,
            "extra": endpoint.extra,
        }
        self.journal = Journal()
        self._client: Client | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._lock, self._stopped = threading.Lock(), False
        self._fatal: UserError | MachineError | None = None

    def __reduce__(self) -> tuple[type[EndpointCaptions], tuple[Endpoint, tuple[Prompt, ...], int]]:
        return EndpointCaptions, (self.endpoint, self.prompts, self.seed)

    def keep_in(self, journal: Journal) -> None:
        """Answers go into the journal and come from it; what was spent before counts in the budget."""
        self.journal, self._client, self._stopped, self._fatal = journal, None, False, None

    def stop(self) -> None:
        """No further call is made; returns when the answers of those under way are kept."""
        with self._lock:
            self._stopped, pool = True, self._pool
            self._pool = None
            if self._client is not None:
                self._client.stopped.set()
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def spent(self) -> str:
        """What all answers of the journal have cost, in words."""
        limit = self.endpoint.limit
        return limit.shown(limit.amount(self.journal.tokens_in, self.journal.tokens_out))

    def rows(self, records: Sequence[Record], pixels: Sequence[Picture]) -> list[Rows | Failure]:
        """A caption, or a failure, for each record and prompt; ``pixels`` are the files' bytes."""
        pool = self._begun()
        futures = [
            [pool.submit(self._one, record, image, prompt) for prompt in self.prompts]
            for record, image in zip(records, pixels, strict=True)
        ]
        try:
            return [[future.result() for future in own] for own in futures]
        except BaseException:
            for future in [future for own in futures for future in own]:
                future.cancel()
            raise

    def _begun(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._stopped:
                raise MachineError("The run was stopped.")
            if self._client is None:
                spent = (self.journal.tokens_in, self.journal.tokens_out, self.journal.largest_in)
                self._client = Client(self.endpoint, Budget(self.endpoint.limit, *spent))
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.endpoint.concurrency, thread_name_prefix="captions")
            return self._pool

    def _one(self, record: Record, image: Picture, prompt: Prompt) -> GeneratedCaption | Failure:
        if self._fatal is not None:
            raise self._fatal
        try:
            answer = self._answer(record, image, prompt)
        except NoAnswerError as error:
            if self._stopped or self._fatal is not None:
                raise (self._fatal or MachineError("The run was stopped.")) from None
            return Failure(record.key, f"prompt {prompt.name}: {error}")
        except (UserError, MachineError) as error:
            self._fatal = error  # what stops one call stops them all, also those of the next unit
            if self._client is not None:
                self._client.stopped.set()
            raise
        if answer.finish == "content_filter":
            return Failure(record.key, f"prompt {prompt.name}: the endpoint's filter held the answer back")
        text = cleaned(answer.text, cut=answer.finish == "length")
        if not text:
            problem = f"cut at {prompt.max_tokens} tokens, before its first sentence ended" if answer.finish == "length" else "empty"
            return Failure(record.key, f"prompt {prompt.name}: the answer was {problem}")
        return prompt.caption(record.key, text, self.endpoint.model, self.seed)

    def _answer(self, record: Record, image: Picture, prompt: Prompt) -> Answer:
        assert self._client is not None
        call = self._call_id(record, prompt)
        known = self.journal.get(call)
        if known is not None:
            return known
        assert isinstance(image, bytes)
        picture = data_url(image, self.endpoint.max_side)
        answer = self._client.ask(prompt, picture, self.seed, lambda *lost: self.journal.lost(call, *lost))
        self.journal.keep(call, answer, {"key": record.key, "model": self.endpoint.model, "prompt": prompt.name})
        return answer

    def _call_id(self, record: Record, prompt: Prompt) -> str:
        """A key is a hash of the image's bytes, so this hashes all that the answer depends on; where it comes from, it does not."""
        identity = {
            name: value for name, value in prompt.identity().items() if name in ("text", "system", "max_tokens", "temperature")
        }
        settings = {"extra": self.endpoint.extra, "max_side": self.endpoint.max_side}
        seed = self.seed if prompt.temperature else 0
        return call_id({"model": self.endpoint.model, "image": record.key, "seed": seed, **identity, **settings})
