"""Any model of the zoo as lm-evaluation-harness sees one.

    from lm_eval import simple_evaluate
    simple_evaluate(model=HarnessModel(model, tokenizer), tasks=["hellaswag"])

The harness's own transformers backend (lm_eval/models/huggingface.py, 0.4.13) is what numbers are held against: texts
are cut and encoded as it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from tqdm import tqdm

from blockzoo.chat.format import ChatFormat, Settings, text_of
from blockzoo.chat.messages import Conversation, Message, Part
from blockzoo.errors import InputError
from blockzoo.evaluation.likelihood import Likelihood, likelihoods
from blockzoo.generation import TextStream, generate
from blockzoo.model import Decoder
from blockzoo.tokenizers import Tokenizer

MAX_GEN_TOKS = 256
"""New tokens where a task doesn't say: the harness's own number."""

Request = tuple[tuple[str, str], list[int], list[int]]


class HarnessModel(TemplateLM):
    """A model and its tokenizer.

    ``prefix_token``: what stands before a text that has no context; default: the first token that ends a text, or of
    a vocabulary without one a line break. ``chat``: how ``apply_chat_template`` writes a conversation.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        *,
        prefix_token: int | None = None,
        chat: ChatFormat | None = None,
        settings: Settings | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.text = tokenizer
        self.n_tokens = min(tokenizer.n_tokens, model.config.vocab_size)
        self.max_length = model.config.context_length
        self.chat = chat
        self.settings = settings or Settings()
        ends = tokenizer.stop_tokens or tuple(tokenizer.encode("\n")[:1])
        self._prefix = ends[0] if prefix_token is None else prefix_token
        if not 0 <= self._prefix < self.n_tokens:
            raise InputError(f"prefix token {self._prefix} is not among the vocabulary's {self.n_tokens}")

    @property
    def eot_token_id(self) -> int:
        return self._prefix

    @property
    def tokenizer_name(self) -> str:
        """For the harness's cache of requests."""
        return f"{self.model.config.tokenizer}-{self.n_tokens}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Control tokens written in a task's text are meant."""
        return self.text.encode(string, control=True)

    def _loglikelihood_tokens(
        self, requests: list[Request], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        whole = [
            (*_cut(context, continuation, self.max_length), index)
            for index, (_, context, continuation) in enumerate(requests)
        ]
        whole.sort(key=lambda item: (-len(item[0]), item[0]))  # the longest first: what doesn't fit shows at once
        found: dict[int, Likelihood] = {}
        with tqdm(total=len(requests), disable=disable_tqdm or None, desc="log-likelihoods") as bar:
            for context, group in groupby(whole, key=lambda item: item[0]):
                members = list(group)
                scored = likelihoods(self.model, context, [item[1] for item in members])
                found.update({item[2]: one for item, one in zip(members, scored, strict=True)})
                bar.update(len(members))
        for index, (texts, _, _) in enumerate(requests):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, tuple(found[index]))
        return [(found[index].log, found[index].greedy) for index in range(len(requests))]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Each text whole, in windows of the model's context that don't overlap."""
        totals = []
        for request in tqdm(requests, disable=disable_tqdm or None, desc="texts"):
            (text,) = request.args
            windows = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            parts = [utils.make_disjoint_window(window) for window in windows]
            scored = self._loglikelihood_tokens([(None, *part) for part in parts], disable_tqdm=True)
            totals.append(sum(log for log, _ in scored))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), totals[-1])
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each text, up to a stop word of the task or a token that ends a text."""
        answers = []
        for index, request in enumerate(tqdm(requests, disable=disable_tqdm or None, desc="answers")):
            context, said = request.args
            options = normalize_gen_kwargs(dict(said), MAX_GEN_TOKS)
            answers.append(self._answer(context, options, index))
            self.cache_hook.add_partial("generate_until", (context, said), answers[-1])
        return answers

    def _answer(self, context: str, options: dict[str, Any], seed: int) -> str:
        words = handle_stop_sequences(options.get("until"), eos=None)
        most = options["max_gen_toks"]
        if most >= self.max_length:
            raise InputError(f"the task asks for {most} new tokens; the model's context holds {self.max_length}")
        sampled = options.get("do_sample", False)
        stream, text = TextStream(self.text), ""
        for token in generate(
            self.model,
            self.tok_encode(context)[-(self.max_length - most) :] or [self.prefix_token_id],
            max_new_tokens=most,
            temperature=options.get("temperature", 1.0) if sampled else 0.0,
            top_k=options.get("top_k") if sampled else None,
            top_p=options.get("top_p") if sampled else None,
            seed=seed,
            stop=self.text.stop_tokens,
            n_tokens=self.n_tokens,
        ):
            text += stream.push(token)
            if any(word in text for word in words if word):
                break
        return postprocess_generated_text(generation=text + stream.close(), stop=words, think_end_token=None)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as its model reads it. Raises InputError for a model without a chat format."""
        if self.chat is None:
            raise InputError(f"'{self.model.config.name}' has no chat format: leave --chat out")
        system = [turn["content"] for turn in chat_history if turn["role"] == "system"]
        turns = tuple(
            Message("assistant" if turn["role"] == "assistant" else "user", (Part("text", turn["content"]),))
            for turn in chat_history
            if turn["role"] != "system"
        )
        conversation = Conversation(turns, system="\n".join(system) or None)
        return text_of(self.chat.render(conversation, self.settings))

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """What the harness writes beside its results."""
        return None if self.chat is None else type(self.chat).__name__


def _cut(context: Sequence[int], continuation: Sequence[int], longest: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Both shortened from the left, so that all but the last token fit ``longest``; a token of context stays."""
    kept = (*context, *continuation)[-(longest + 1) :]
    split = max(1, len(kept) - len(continuation))
    return tuple(kept[:split]), tuple(kept[split:])
