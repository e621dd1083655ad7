"""The command: what it prints where, what it leaves with, and what it does not import."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from stillhouse.catalog.papers import papers
from stillhouse.cli.main import COMMANDS, main
from stillhouse.engine.contracts import Facts
from stillhouse.errors import StillhouseError, nearest
from stillhouse.networks.kinds import ConvNet
from stillhouse.recipe.registry import known
from stillhouse.recipe.text import load
from stillhouse.students.export import _Whole, export
from stillhouse.students.load import load_student

TINY = ["train.steps=2", "teacher.weights.steps=1", "train.batch_size=8", "teacher.weights.batch_size=8"]
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command in this process: exit code, stdout, stderr."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        code = left.value.code
        return (code if isinstance(code, int) else int(code is not None)), out, err

    return run


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    command = [
        sys.executable,
        "-m",
        "stillhouse",
        "run",
        "kd-digits",
        *TINY,
        "--out",
        str(folder),
        "--seed",
        "3",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (folder / "answer.json").write_text(done.stdout)
    return folder


def modules_after(*arguments: str) -> set[str]:
    program = (
        "import sys\nfrom stillhouse.cli.main import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0
    return set(done.stderr.split())


def test_help_imports_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "pydantic", "yaml", "rich", "sklearn", "stillhouse.recipe.schema"}
    assert "stillhouse.cli.export" in modules_after("--help")
    assert not heavy & modules_after("--help")
    assert not heavy & modules_after("--version")


@pytest.mark.parametrize(
    "arguments", [("list", "papers"), ("list", "recipes"), ("show", "kd-digits"), ("list", "networks")]
)
def test_looking_imports_no_torch(arguments: tuple[str, ...]) -> None:
    assert not {"torch", "numpy", "sklearn", "transformers"} & modules_after(*arguments)


def test_help_names_every_command_and_each_has_an_example(call: Call) -> None:
    code, out, err = call("--help")
    assert (code, err) == (0, "")
    for name in COMMANDS:
        assert f"\n  {name} " in out
        assert "..." not in out.split(f"\n  {name} ")[1].split("\n")[0]
        code, told, _ = call(name, "--help")
        assert code == 0
        assert f"    stillhouse {name} " in told
    for name in ("build", "info", "verify"):
        assert f"    stillhouse store {name} " in call("store", name, "--help")[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lst"], "did you mean 'list'?"),
        (["run"], "RECIPE"),
        (["run", "kd-digit"], "did you mean 'kd-digits'?"),
        (["run", "kd-digits", "train.stps=3"], "did you mean 'train.steps'?"),
        (["run", "kd-digits", "--seed", "-1"], "seed"),
        (["run", "kd-digits", "--root", "/nowhere"], "there is no folder /nowhere"),
        (["run", "kd-digits", "--plugin", "/nowhere.py"], "no plug-in file"),
        (["run", "kd-digits", "seed=2", "--seed", "1"], "--seed 1 and seed=2"),
        (["run", "kd-digits", "--out", __file__], f"{__file__} is a file, not a folder"),
        (["run", "kd-digits", "--out", f"{__file__}/run"], f"{__file__} is a file, not a folder"),
        (["run", "kd-digits", "--out", "/proc/run"], "the folder /proc/run cannot be made"),
        (["check", "/"], "the recipe / is a folder"),
        (["check", "/dev/null"], "the recipe /dev/null is not a plain file"),
        (["store", "build", "kd-digits", "--out", "unused"], "with data.shift=0"),
        (["store", "verify", "/nowhere"], "no store"),
        (["show", "kd-digits", "evaluate=[accuracy]"], "proof=null leaves the proof out"),
        (["show", "hinton"], " more"),
        (["resume", "/nowhere"], "holds no run"),
        (["list", "papirs"], "did you mean 'papers'?"),
        (["list", "papers", "--family", "logits"], "did you mean 'logit'?"),
        (["list", "recipes", "--family", "logits"], "did you mean 'logit'?"),
        (["list", "methods", "--family", "logit"], "--family"),
        (["show", "kd-digit"], "did you mean 'kd-digits'?"),
        (["show", "kl", "--python"], "is no recipe"),
        (["prove", "kd-digits", "--seeds", "a"], "--seeds takes whole numbers"),
        (["prove", "kd-digit"], "did you mean 'kd-digits'?"),
        (["report", "/nowhere"], "no run folder"),
        (["compare", "/nowhere"], "no run folder"),
        (["export", "/nowhere", "--to", "onnx"], "holds no student"),
        (["export", "/nowhere", "--to", "onn"], "did you mean 'onnx'?"),
    ],
)
def test_wrong_input_leaves_with_2_and_says_what_to_do(call: Call, arguments: list[str], said: str) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "kd-digit"], 2, "did you mean 'kd-digits'?"),
        (["run"], 2, "RECIPE"),
        (["show", "kd-digits", "--sed", "1"], 2, "--sed"),
        (["resume", "/nowhere"], 2, "holds no run"),
        (["check", "kd-digits", "data=no-such-data"], 2, "no data is named"),
    ],
)
def test_a_program_is_told_of_an_error_in_json(call: Call, arguments: list[str], code: int, said: str) -> None:
    left, out, err = call(*arguments, "--json")
    assert left == code
    answer = json.loads(out)
    assert answer == {"error": answer["error"], "exit": code}
    assert said in answer["error"]
    assert answer["error"].replace("\n", "\n  ") in err


def test_a_damaged_store_is_one_json_object(call: Call, tmp_path: Path) -> None:
    code, out, _ = call("store", "verify", tmp_path, "--json")
    assert code == 2
    assert "no store" in json.loads(out)["problems"][0]


@pytest.mark.parametrize(
    ("weights", "key"),
    [
        ("teacher.weights={kind: file, path: absent.pt}", "teacher.weights.path"),
        (
            "teacher.weights={kind: trained, steps: 1, start: {kind: file, path: absent.pt}}",
            "teacher.weights.start.path",
        ),
        (
            "control={student: {network: convnet, weights: {kind: file, path: absent.pt}}}",
            "control.student.weights.path",
        ),
    ],
)
def test_a_missing_file_of_weights_is_named_with_its_key(call: Call, tmp_path: Path, weights: str, key: str) -> None:
    code, _, err = call("run", "kd-digits", *TINY[::2], weights, "--out", tmp_path / "run", "--root", tmp_path)
    assert code == 2
    assert f"{key}: {tmp_path / 'absent.pt'} does not exist" in err
    assert f"with {key}=PATH" in err
    assert load("kd-digits", [weights, f"{key}=other.pt"])


def test_the_nearest_word_is_near_and_a_long_list_is_cut() -> None:
    assert nearest("tempreture", ["temperature", "weight"]) == "did you mean 'temperature'?"
    assert nearest("hinton", ["ipvton", "kl"]) == "known: ipvton, kl"
    assert nearest("x", []) == "nothing is known here"
    many = [f"word-{n}" for n in range(400)] + ["the-hinton-loss"]
    told = nearest("hinton", many)
    assert told.startswith("closest: the-hinton-loss, word-")
    assert told.endswith(" and 389 more")
    assert told.count("word-") == 11


def test_debug_shows_where_and_leaves_the_same(call: Call) -> None:
    code, _, err = call("show", "nothing-like-it", "--debug")
    assert code == 2
    assert "Traceback" in err
    assert "StillhouseError: " in err


def test_all_of_a_recipe_s_errors_are_printed(call: Call, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(
        "name: Bad\ndata: digit\nstudent: {network: convnet}\nmethod: match\ntrain: {}\n"
    )
    code, _, err = call("run", tmp_path / "bad.yaml")
    assert code == 2
    for line, key in ((1, "name"), (2, "data"), (4, "method"), (5, "train")):
        assert f"{tmp_path / 'bad.yaml'}:{line}: {key}: " in err


def test_version(call: Call) -> None:
    assert call("--version")[1].strip() == importlib.metadata.version("stillhouse")


def test_lists(call: Call) -> None:
    listed = json.loads(call("list", "papers", "--json")[1])["papers"]
    assert {row["key"] for row in listed} == {paper.key for paper in papers()}
    some = json.loads(call("list", "papers", "--family", "logit", "--json")[1])["papers"]
    assert 0 < len(some) < len(listed)
    assert {row["name"] for row in json.loads(call("list", "objectives", "--json")[1])["objectives"]} == set(
        known("term")
    )
    out = call("list", "recipes")[1]
    assert any(line.startswith("kd-digits ") and " logit " in line for line in out.splitlines())
    for what in ("methods", "networks", "data", "metrics", "weights", "views", "samplers", "optimizers"):
        assert call("list", what)[1].strip()


def test_show(call: Call) -> None:
    assert load(call("show", "kd-digits", "train.epochs=7")[1]) == load("kd-digits", ["train.epochs=7"])
    namespace: dict[str, Any] = {"__name__": "program"}
    exec(call("show", "kd-digits", "--python")[1], namespace)
    assert namespace["recipe"] == load("kd-digits")
    out = call("show", "kl")[1]
    assert "arXiv:1503.02531" in out
    assert ["temperature", "1.0"] in [line.split()[:2] for line in out.splitlines()]
    (facts,) = json.loads(call("show", "match", "--json")[1])["kinds"]
    assert facts["options"][0]["default"] == "required"
    out = call("show", "born-again-networks")[1]
    assert "Born Again Neural Networks" in out
    assert "State:" in out


def test_every_kind_and_paper_can_be_shown(call: Call) -> None:
    for family in ("method", "term", "network", "data", "metric", "weights", "view", "sampler", "optimizer"):
        for name, kind in known(family).items():
            assert kind.__doc__, name
            assert f"{family} {name}\n" in call("show", name)[1]
    for paper in papers()[::50]:
        assert paper.title in call("show", paper.key)[1]


def test_check_leaves_with_2_when_a_recipe_cannot_run(call: Call) -> None:
    code, out, _ = call("check", "kd-digits", *TINY, "--json")
    assert (code, json.loads(out)["passed"]) == (0, True)
    code, out, err = call("check", "kd-digits", *TINY, "method.terms.0={by: mse, signal: features.nowhere}")
    assert code == 2
    assert "nowhere" in out + err


def test_run_prints_one_json_object(run_folder: Path) -> None:
    answer = json.loads((run_folder / "answer.json").read_text())
    assert answer["folder"] == str(run_folder)
    assert answer["seed"] == 3
    assert set(answer["arms"]) == {"teacher", "student", "control"}
    assert load(run_folder / "recipe.yaml") == load("kd-digits", [*TINY, "seed=3"])


def test_a_run_is_not_written_over(call: Call, run_folder: Path) -> None:
    before = (run_folder / "summary.json").read_bytes()
    code, _, err = call("run", "kd-digits", *TINY, "--out", run_folder)
    assert code == 2
    assert "stillhouse resume" in err
    assert (run_folder / "summary.json").read_bytes() == before


def test_a_finished_run_is_resumed_at_no_cost(call: Call, run_folder: Path) -> None:
    assert f"\nNext:   stillhouse export {run_folder} " in call("resume", run_folder)[1]
    code, out, _ = call("resume", run_folder, "--json")
    assert code == 0
    assert json.loads(out)["arms"] == json.loads((run_folder / "answer.json").read_text())["arms"]


def test_report_and_compare(call: Call, run_folder: Path, tmp_path: Path) -> None:
    (run_folder / "report.html").unlink()
    code, out, _ = call("report", run_folder)
    assert code == 0
    assert Path(out.strip()).read_text().startswith("<!doctype html>")
    code, out, _ = call("compare", run_folder, "--html", tmp_path / "page.html")
    assert code == 0
    assert "accuracy" in out
    assert "teacher" in (tmp_path / "page.html").read_text()
    code, out, _ = call("compare", run_folder, "--json")
    assert json.loads(out)["groups"][0]["seeds"] == [3]


def test_export_gives_the_student_alone(call: Call, run_folder: Path, tmp_path: Path) -> None:
    code, out, _ = call("export", run_folder, "--to", "safetensors", "--out", tmp_path / "student")
    assert code == 0
    assert "model.safetensors" in out
    written, own = (
        load_file(tmp_path / "student" / "model.safetensors"),
        load_file(run_folder / "student" / "model.safetensors"),
    )
    assert written.keys() == own.keys()
    assert all(torch.equal(written[name], own[name]) for name in own)
    assert "[1 x 8 x 8] in [0, 1]" in (tmp_path / "student" / "README.md").read_text()
    assert call("export", run_folder, "--to", "safetensors", "--out", tmp_path / "student")[0] == 2
    code, _, err = call("export", run_folder, "--to", "hf", "--out", tmp_path / "hf")
    assert code == 2
    assert "Hugging Face does not know" in err
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_an_exported_generator_is_told_as_one(call: Call, tmp_path: Path) -> None:
    run, student = tmp_path / "run", tmp_path / "student"
    quick = ["control=false", "arms={}", "proof=null", "evaluate=[]", "teacher.network.width=8"]
    assert call("run", "dmd-digits", *TINY, *quick, "--quiet", "--out", run)[0] == 0
    assert call("export", run, "--to", "safetensors", "--out", student)[0] == 0
    told = (student / "README.md").read_text()
    assert "a generator of images [1 x 8 x 8] of 10 classes" in told
    assert "kind one-step, sigma 2.5" in told
    code, _, err = call("export", run, "--to", "onnx", "--out", tmp_path / "graph")
    assert code == 2
    assert "go --to safetensors" in err


def test_what_onnx_exports_is_the_student_behind_its_view(run_folder: Path, tmp_path: Path) -> None:
    run = shutil.copytree(run_folder, tmp_path / "run")
    config = json.loads((run / "student" / "config.json").read_text())
    view = {"kind": "image", "mean": [0.5], "std": [0.25]}
    (run / "student" / "config.json").write_text(json.dumps(config | {"view": view}))
    network = ConvNet(width=8).build(Facts("classification", shape=(1, 8, 8), classes=10)).eval()
    network.load_state_dict(load_file(run / "student" / "model.safetensors"))
    images = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(_Whole(load_student(run))(images), network((images - 0.5) / 0.25))


def test_an_exported_student_is_loaded_as_its_readme_says(call: Call, run_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "student"
    assert call("export", run_folder, "--to", "safetensors", "--out", folder)[0] == 0
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode
    program = "\n".join(
        line.strip() for line in (folder / "README.md").read_text().splitlines() if line.startswith("    ")
    )
    shown = f"import torch\nimages = torch.rand(3, 1, 8, 8)\n{program}\nprint(logits.shape, len(state))"
    done = subprocess.run([sys.executable, "-c", shown], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("torch.Size([3, 10])")
    with pytest.raises(StillhouseError, match="holds no student"):
        load_student(tmp_path / "nothing")


@pytest.mark.skipif(importlib.util.find_spec("onnx") is not None, reason="onnx is installed")
def test_a_missing_extra_is_named(call: Call, run_folder: Path, tmp_path: Path) -> None:
    code, _, err = call("export", run_folder, "--to", "onnx", "--out", tmp_path / "o")
    assert code == 2
    assert "pip install 'stillhouse[onnx]'" in err


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs onnxruntime")
def test_onnx_gives_the_same_logits(run_folder: Path, tmp_path: Path) -> None:
    import onnxruntime  # type: ignore[import-not-found]

    export(run_folder, "onnx", tmp_path / "o")
    images = torch.rand(5, 1, 8, 8)
    session = onnxruntime.InferenceSession(str(tmp_path / "o" / "model.onnx"))
    (logits,) = session.run(["logits"], {"image": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), _Whole(load_student(run_folder))(images))


def test_a_proof_that_falls_short_leaves_with_4(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expect = "proof.expect=[student.accuracy > 2, student.accuracy < 2]"
    text = call("show", "kd-digits", *TINY, expect, "control=false", "evaluate=[accuracy]", "name=short")[1]
    (tmp_path / "short.yaml").write_text(text)
    code, out, err = call("prove", "short.yaml", "--seeds", "5", "--json", "--out", tmp_path / "evidence")
    assert code == 4
    assert "fell short" in err
    (proof,) = json.loads(out)["proofs"]
    assert proof["verdict"] == "fell short"
    assert [finding["holds"] for finding in proof["expectations"]] == [False, True]
    assert json.loads((tmp_path / "evidence" / "short.json").read_text())["seeds"] == [5]


PLUGIN = '''
from typing import Literal
from stillhouse.sources.kinds import DataKind

class Broken(DataKind):
    """Data that fails."""
    kind: Literal["broken-for-the-cli-test"] = "broken-for-the-cli-test"
    def build(self, *args, **kwargs):
        raise RuntimeError("no such luck")
'''


def test_an_unexpected_failure_leaves_with_3(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text(PLUGIN)
    code, out, err = call("run", "kd-digits", "data=broken-for-the-cli-test", "--plugin", "broken.py")
    assert (code, out) == (3, "")
    assert "RuntimeError: no such luck" in err
    assert "--debug" in err
    assert "Traceback" not in err


def test_relative_paths_are_looked_up_in_the_root(
    call: Call, tmp_path: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLHOUSE_ROOT", str(tmp_path))
    weights = "student.weights={kind: file, path: student/model.safetensors}"
    code, _, err = call("run", "kd-digits", *TINY, weights, "--out", tmp_path / "missing", "--quiet")
    assert code == 2
    assert str(tmp_path / "student" / "model.safetensors") in err
    code, out, err = call("run", "kd-digits", *TINY, weights, "--root", run_folder, "--out", tmp_path / "r", "--quiet")
    assert code == 0, err
    assert "Report:" in out


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m stillhouse list papers | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


def test_ctrl_c_leaves_with_130_and_says_how_to_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "stillhouse",
        "run",
        "kd-digits",
        "teacher.weights.steps=100000",
        "--out",
        str(folder),
    ]
    process = subprocess.Popen([*command, "teacher.weights.log_every=1"], stderr=subprocess.PIPE, text=True)
    limit = time.monotonic() + 200
    metrics = folder / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") > 2):
        assert process.poll() is None
        assert time.monotonic() < limit, "the run never began"
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 130
    assert f"stillhouse resume {folder}" in err
    assert "Traceback" not in err
