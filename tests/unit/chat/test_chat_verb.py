"""``blockzoo chat`` and ``generate --chat``: from a pipe, at a terminal, and what is refused."""

from __future__ import annotations

import io
import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from blockzoo.chat.messages import Conversation, Tool
from blockzoo.chat.session import Session
from blockzoo.chat.tools import read_tools
from blockzoo.checkpoints import from_pretrained
from blockzoo.cli import main
from blockzoo.cli.chat import converse
from blockzoo.cli.chat_input import Lines, Terminal, history_file
from blockzoo.cli.talk import Screen, Talk, open_talk
from blockzoo.errors import InputError
from blockzoo.model import Decoder
from blockzoo.plugins import reset_host
from blockzoo.registry import Registry
from tests.unit.chat.scripted import Scripted

Cli = Callable[..., tuple[int, str, str]]
ANSWER = "<think>\nLet me see\n</think>\n\nHello!<|im_end|>"
CALL = '<think>\nhm\n</think>\n\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call><|im_end|>'


@pytest.fixture(scope="module", autouse=True)
def only_built_in() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLOCKZOO_PLUGINS", "none")
        reset_host()
        yield
    reset_host()


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    def run(*arguments: object, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        status = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture(scope="module")
def weightless(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same folders without any weights."""
    folders = {}
    for family, folder in checkpoints.items():
        folders[family] = tmp_path_factory.mktemp("weightless") / family
        shutil.copytree(folder, folders[family], ignore=shutil.ignore_patterns("*.safetensors*"))
    return folders


@pytest.mark.parametrize(
    ("family", "options", "expected"),
    [
        ("qwen3", ["--no-thinking"], "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        ("qwen3", ["--system", "Be."], "<|im_start|>system\nBe.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"),
        ("gpt_oss", ["--reasoning", "high"], "Reasoning: high\n"),
        ("gpt_oss", ["--system", "Be."], "<|start|>developer<|message|># Instructions\n\nBe.<|end|>"),
    ],
)
def test_the_prompt_needs_no_weights(
    cli: Cli, weightless: dict[str, Path], family: str, options: list[str], expected: str
) -> None:
    status, out, err = cli(
        "generate", weightless[family], "--chat", "--prompt", "Hi", "--show-prompt", "--json", *options
    )
    assert (status, err) == (0, "")
    shown = json.loads(out)
    assert expected in shown["text"]
    status, out, _ = cli("chat", weightless[family], "--show-prompt", *options, stdin="Hi\n")
    assert status == 0
    assert expected in out
    assert f"{len(shown['tokens'])} tokens: {' '.join(map(str, shown['tokens']))}" in out


def test_the_prompt_of_plain_generation(cli: Cli, weightless: dict[str, Path]) -> None:
    status, out, _ = cli("generate", weightless["gpt_oss"], "--prompt", "a b", "--show-prompt", "--json")
    assert (status, json.loads(out)) == (0, {"text": "a b", "tokens": [64, 287]})


@pytest.mark.parametrize("family", ["gpt_oss", "qwen3"])
def test_a_pipe(cli: Cli, checkpoints: dict[str, Path], family: str) -> None:
    options = ["--max-new-tokens", 6, "--seed", 1, "--context", 600]
    status, _, err = cli("chat", checkpoints[family], *options, stdin="Hi\\\nyou\n\nAnd?\n")
    assert status == 0
    assert err.count("was cut after 6 tokens") == 2


def test_one_answer(cli: Cli, checkpoints: dict[str, Path]) -> None:
    options = ["--chat", "--prompt", "Hi", "--max-new-tokens", 5, "--seed", 1, "--reasoning", "low"]
    status, out, err = cli("generate", checkpoints["gpt_oss"], *options)
    assert status == 0
    assert "cut after 5 tokens" in err
    status, again, _ = cli("generate", checkpoints["gpt_oss"], *options, "--json")
    document = json.loads(again)
    assert document.keys() == {"prompt", "text", "thinking", "calls", "tokens"}
    assert document["text"] == out.strip("\n")


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        (
            "qwen3",
            ["--reasoning", "high"],
            "--reasoning high: the chat format of qwen3 has no such levels; it has --th",
        ),
        ("gpt_oss", ["--reasoning", "hihg"], "--reasoning hihg; did you mean 'high'?"),
        ("gpt_oss", ["--no-thinking"], "can't be told not to think; --reasoning low keeps it short"),
        ("gpt_oss", ["--tools", "none.json"], "none.json: can't be read as JSON"),
        ("gpt_oss", ["--context", "0"], "--context 0: must be between 1 and 1024"),
        ("gpt_oss", ["--max-new-tokens", "0"], "--max-new-tokens 0: must be at least 1"),
        ("gpt_oss", ["--dtype", "flaot32"], "--dtype flaot32; did you mean 'float32'?"),
        ("gpt_oss", ["--context", "50"], "the context holds 50"),
    ],
)
def test_what_is_refused(cli: Cli, checkpoints: dict[str, Path], family: str, options: list[str], message: str) -> None:
    status, _, err = cli("chat", checkpoints[family], *options, stdin="Hi\n")
    assert status == 2
    assert message in err
    assert err.count("blockzoo: error: ") == 1


OTHERS = {
    "gpt2": ({"family": "gpt2", "embedding": {"tied": True, "position": "learned"}}, "its family, gpt2, has none"),
    "none": ({"tokenizer": "bytes", "position": "rope"}, "its config names no family (with one: gpt_oss, qwen3)"),
    "small": ({"family": "gpt_oss", "position": "rope"}, "needs token 200008, the model's table has 300"),
    "bytes": ({"family": "qwen3", "tokenizer": "bytes", "position": "rope"}, "has no control token <|im_start|>"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_models_without_a_chat_format(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    changes, message = OTHERS[name]
    sizes = {"name": name, "vocab_size": 300, "context_length": 64, "d_model": 32, "norm": "rms_norm"}
    layers = {"count": 1, "mixer": {"type": "gqa", "n_heads": 4}, "ffn": {"type": "mlp", "d_ff": 64}}
    (tmp_path / "model.yaml").write_text(json.dumps({**sizes, "layers": layers, **changes}))
    status, _, err = cli("chat", tmp_path / "model.yaml", stdin="Hi\n")
    assert status == 2
    assert message in err
    assert "`blockzoo generate` continues plain text" in err


def test_options_of_chat_without_it(cli: Cli, checkpoints: dict[str, Path]) -> None:
    for option in (["--system", "x"], ["--reasoning", "low"], ["--no-thinking"], ["--hide-thinking"]):
        status, _, err = cli("generate", checkpoints["gpt_oss"], "--prompt", "x", *option)
        assert (status, "means something with --chat only" in err) == (2, True)


GOOD = {"type": "function", "function": {"name": "f", "description": "Does it.", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "can't be read as JSON"),
        ("{}", "must be a list of functions"),
        ("[3]", "entry 0: must be an object"),
        ('[{"name": "f", "desciption": "x"}]', "entry 0: unknown key 'desciption'; did you mean 'description'?"),
        ('[{"name": "f g"}]', "entry 0: name is 'f g'"),
        ('[{"name": "f", "description": 3}]', "entry 0: description must be text"),
        ('[{"name": "f", "parameters": []}]', "entry 0: parameters must be a JSON schema"),
        (json.dumps([GOOD, GOOD]), "two functions are named 'f'"),
    ],
)
def test_files_of_tools(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "tools.json").write_text(text)
    with pytest.raises(InputError) as error:
        read_tools(tmp_path / "tools.json")
    assert f"tools.json: {message}" in str(error.value)


def test_tools_are_offered(cli: Cli, weightless: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text(json.dumps([GOOD]))
    options = ["--chat", "--prompt", "x", "--show-prompt", "--tools", tmp_path / "tools.json"]
    _, out, _ = cli("generate", weightless["gpt_oss"], *options)
    assert "// Does it.\ntype f = (_: {\n}) => any;" in out


class FakeTerminal:
    """A person's lines, and the labels they were asked with."""

    interactive = True

    def __init__(self, *lines: str) -> None:
        self.lines = iter(lines)
        self.labels: list[str] = []

    def read(self, label: str) -> str | None:
        self.labels.append(label)
        return next(self.lines, None)


@pytest.fixture(scope="module")
def opened(checkpoints: dict[str, Path], registry: Registry) -> tuple[Decoder, Talk]:
    folder = checkpoints["qwen3"]
    return from_pretrained(folder, dtype="stored", registry=registry), open_talk(
        str(folder), None, None, None, None, registry
    )


@pytest.fixture
def session(opened: tuple[Decoder, Talk]) -> Callable[..., Session]:
    model, talk = opened
    tokenizer = talk.tokenizer

    def open_session(*answers: str, before: Callable[[], object] = lambda: None, **options: Any) -> Session:
        script = (token for answer in answers for token in tokenizer.encode(answer, control=True))
        sampler = Scripted(script=script, before=before)
        conversation = Conversation(tools=options.pop("tools", ()))
        options = {"context": 600, **options}
        return Session(model, tokenizer, talk.format, conversation, talk.settings, sampler=sampler, **options)

    return open_session


def test_commands_at_a_terminal(session: Callable[..., Session], capsys: pytest.CaptureFixture[str]) -> None:
    terminal = FakeTerminal("", "Hi", "/prompt", "/claer", "/help", "/clear", "/prompt", "/exit", "never read")
    converse(session(ANSWER), terminal, Screen())
    out, err = capsys.readouterr()
    assert out.startswith("Hello!\n")
    assert "Let me see" in err  # standard output is no terminal here: what it thinks is apart
    assert out.count("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n") == 1
    assert "did you mean '/clear'?" in err
    assert "/exit    end the chat" in err
    assert next(terminal.lines) == "never read"


def test_hidden_thinking(session: Callable[..., Session], capsys: pytest.CaptureFixture[str]) -> None:
    converse(session(ANSWER), FakeTerminal("Hi"), Screen(hide_thinking=True))
    assert capsys.readouterr() == ("Hello!\n", "")


def test_a_terminal_dims_what_is_not_the_answer(
    session: Callable[..., Session], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    converse(session(ANSWER.replace("Hello", "Hel\x1b[31mlo")), FakeTerminal("Hi"), Screen())
    out = capsys.readouterr().out
    assert out.startswith("\x1b[2mLet\x1b[0m")
    assert out.endswith("\n\nHel\ufffd[31mlo!\n")  # what could steer the terminal is made visible
    converse(session(ANSWER), FakeTerminal("Hi"), Screen(hide_thinking=True))
    assert capsys.readouterr().out == "\x1b[2m(thinking)\x1b[0m\n\nHello!\n"


def test_a_model_that_says_nothing(session: Callable[..., Session], capsys: pytest.CaptureFixture[str]) -> None:
    converse(session("\n\n<|im_end|>"), FakeTerminal("Hi"), Screen())
    assert "nothing was said in the chat format, in 1 tokens" in capsys.readouterr().err


def test_results_of_calls_are_asked_for(session: Callable[..., Session], capsys: pytest.CaptureFixture[str]) -> None:
    terminal = FakeTerminal("Do it", "done so", "Thanks")
    converse(session(CALL, ANSWER, ANSWER, tools=(Tool("f", "Does it."),)), terminal, Screen())
    assert terminal.labels == ["> ", "result of f> ", "> ", "> "]
    assert 'call f: {"a": 1}' in capsys.readouterr().out


def test_ctrl_c_stops_the_answer_and_not_the_program(
    session: Callable[..., Session], capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = 0

    def interrupt() -> None:
        nonlocal drawn
        drawn += 1
        if drawn in (4, 20, 21):  # once in the first answer, twice within one token of the third
            signal.raise_signal(signal.SIGINT)
        if drawn == 20:
            signal.raise_signal(signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    one = session(ANSWER, before=interrupt)
    one._sampler = Scripted(script=_endless(one), before=interrupt)
    converse(one, FakeTerminal("One", "/prompt"), Screen())
    assert drawn == 4
    assert [message.role for message in one.conversation.messages] == ["user", "assistant"]
    drawn = 10
    converse(one, FakeTerminal("Two"), Screen())
    assert "(stopped); this turn is forgotten" in capsys.readouterr().err
    assert len(one.conversation.messages) == 2
    assert signal.getsignal(signal.SIGINT) is handler


def _endless(session: Session) -> Iterator[int]:
    while True:
        yield from session.tokenizer.encode(" word")


def test_an_error_ends_that_answer_only(session: Callable[..., Session], capsys: pytest.CaptureFixture[str]) -> None:
    converse(session(ANSWER), FakeTerminal("word " * 700, "Hi"), Screen())
    out, err = capsys.readouterr()
    assert "the context holds 600" in err
    assert out == "Hello!\n"


def test_lines() -> None:
    lines = Lines(io.StringIO("one\ntwo\\\nthree\n\nfour"))
    assert [lines.read("> ") for _ in range(5)] == ["one", "two\nthree", "", "four", None]
    assert Lines(io.StringIO("end\\\n")).read("> ") == "end\n"


def test_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several lines, pasted ones, Ctrl-C at the prompt, history, and the end."""
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output import DummyOutput

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    enter, alt_enter, ctrl_c, ctrl_d = "\r", "\x1b\r", "\x03", "\x04"
    pasted = "\x1b[200~p\nq\x1b[201~"
    typed = f"one{enter}two{alt_enter}three{enter}four\\{enter}five{enter}{pasted}{enter}x{ctrl_c}{ctrl_d}"
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text(typed)
        terminal = Terminal(history_file())
        read = [terminal.read("> ") for _ in range(6)]
    assert read == ["one", "two\nthree", "four\nfive", "p\nq", "", None]
    assert "+two\n+three\n" in (tmp_path / "blockzoo" / "chat-history").read_text()
    assert (tmp_path / "blockzoo" / "chat-history").stat().st_mode & 0o777 == 0o600
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert history_file() is None
