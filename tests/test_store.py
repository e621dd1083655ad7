"""Teachers' targets on disk: what goes in comes out, whatever happens to the process or to the bytes."""

from __future__ import annotations

import errno
import json
import math
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from stillhouse.engine.contracts import Batch, Facts, Losses, Source
from stillhouse.errors import StillhouseError
from stillhouse.methods.kinds import Match as MatchKind
from stillhouse.methods.match import Match
from stillhouse.methods.roles import Roles
from stillhouse.objectives.divergences import forward_kl, sparse_forward_kl
from stillhouse.recipe.check import check
from stillhouse.recipe.execute import distill
from stillhouse.recipe.targets import build_for
from stillhouse.recipe.text import load
from stillhouse.sources.arrays import ImageArray
from stillhouse.sources.digits import digits
from stillhouse.sources.kinds import Digits
from stillhouse.store import Dense, Store, TopK, build_store, identity_of, info, verify
from stillhouse.teachers.frozen import Frozen
from stillhouse.teachers.stored import StoredTeacher
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model
from stillhouse.views.tokens import TokenView

SIDE, CLASSES, VOCABULARY, TOKENS = 4, 5, 300, 6


def classifier(seed: int = 0, **view: tuple[float, ...]) -> Frozen:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 12), nn.BatchNorm1d(12), nn.Linear(12, CLASSES))
    return Frozen(Model(network, ImageView(Image(**view))))


def pictures(count: int, seed: int = 0, pad: int = 0) -> ImageArray:
    draw = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 1, SIDE, SIDE, generator=draw)
    labels = torch.randint(CLASSES, (count,), generator=draw)
    return ImageArray(images, labels, fingerprint=f"pictures {count} {seed}", pad=pad)


class Texts:
    """Token ids [T] by position."""

    def __init__(self, count: int, seed: int = 0) -> None:
        self.ids = torch.randint(VOCABULARY, (count, TOKENS), generator=torch.Generator().manual_seed(seed))
        self.fingerprint = f"texts {count} {seed}"

    def __len__(self) -> int:
        return len(self.ids)

    def fetch(self, indices: Tensor, rng: torch.Generator | None) -> Batch:
        return {"index": indices, "input_ids": self.ids[indices], "labels": self.ids[indices]}


class Bigram(nn.Module):
    """A language model: the logits of the next token depend on the token."""

    def __init__(self, scale: float = 3.0) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, VOCABULARY)
        nn.init.normal_(self.table.weight, std=scale, generator=torch.Generator().manual_seed(1))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.table(input_ids)


def language_model() -> Frozen:
    return Frozen(Model(Bigram(), TokenView()))


def everything(source: Source) -> Batch:
    return source.fetch(torch.arange(len(source)), None)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---- what goes in comes out


def test_dense_fp32_comes_back_bit_for_bit(tmp_path: Path) -> None:
    teacher, source = classifier(), pictures(50)
    store = build_store(tmp_path, teacher, source, batch_size=16, shard_records=20)
    assert len(store.shards) == 2
    order = torch.randperm(50, generator=torch.Generator().manual_seed(3))
    live = torch.cat([teacher.signals(source.fetch(chunk, None))["logits"] for chunk in torch.arange(50).split(16)])
    assert torch.equal(Store.open(tmp_path).read(order)["logits"], live[order])


def test_build_sees_inputs_as_they_are_not_augmented(tmp_path: Path) -> None:
    source = pictures(20, pad=1)
    store = build_store(tmp_path, classifier(), source, batch_size=20)
    assert torch.equal(store.read(torch.arange(20))["logits"], classifier().signals(everything(source))["logits"])


def test_several_signals_each_in_its_layout(tmp_path: Path) -> None:
    teacher, source = classifier(), pictures(12)
    layouts = {"features.0": Dense("float16"), "features.1": Dense("bfloat16"), "logits": TopK(2)}
    store = build_store(tmp_path, teacher, source, signals=layouts, batch_size=12)
    live = teacher.signals(everything(source), ["features.0", "features.1"])
    read = store.read(np.arange(12), ["features.0", "features.1", "logits.topk.indices"])
    assert set(read) == {"features.0", "features.1", "logits.topk.indices"}
    assert torch.equal(read["features.0"], live["features.0"].half().float())
    assert torch.equal(read["features.1"], live["features.1"].bfloat16().float())
    assert read["features.0"].dtype is torch.float32


def test_a_value_that_overflows_the_precision_is_refused() -> None:
    with pytest.raises(StillhouseError, match="float16 cannot hold"):
        Dense("float16").encode("logits", torch.tensor([[7e4, 0.0]]))
    assert Dense("bfloat16").encode("logits", torch.tensor([[7e4, -math.inf]]))["logits"].dtype == np.uint16


def test_a_teacher_that_gives_nan_is_refused(tmp_path: Path) -> None:
    teacher = classifier()
    with torch.no_grad():
        teacher.network[3].bias[0] = math.nan
    with pytest.raises(StillhouseError, match="NaN in 'logits'"):
        build_store(tmp_path, teacher, pictures(3))


# ---- the top k and the mass of the rest


def oracle(logits: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities, their top k, and 1 - their sum, in float64 and in probability space."""
    p = (logits.double() / temperature).exp()
    p = p / p.sum(-1, keepdim=True)
    ranked = p.sort(-1, descending=True)
    return p, ranked.indices[..., :k], ranked.values[..., k:].sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("k", [1, 7, VOCABULARY - 1, VOCABULARY])
def test_top_k_holds_the_head_and_the_mass_of_the_tail(tmp_path: Path, k: int, temperature: float) -> None:
    teacher, source = language_model(), Texts(9)
    store = build_store(tmp_path, teacher, source, signals={"logits": TopK(k, temperature)})
    read = store.read(np.arange(9), store.gives)
    p, indices, tail = oracle(teacher.signals(everything(source))["logits"], k, temperature)
    assert torch.equal(read["logits.topk.indices"], indices)
    torch.testing.assert_close(read["logits.topk.tail"].double().exp(), tail, rtol=1e-5, atol=1e-12)
    head = read["logits.topk.values"].double()
    expected = p.gather(-1, indices)
    # float16 has 11 bits: log p is off by at most |log p| 2^-11 in the head and in its normalisation
    assert ((head - expected.log()).abs() <= 2 * 2.0**-11 * expected.log().abs().amax(-1, True) + 1e-6).all()
    torch.testing.assert_close(head.exp().sum(-1) + tail, torch.ones_like(tail), rtol=1e-6, atol=1e-6)
    dense = read["logits"].double() / temperature
    torch.testing.assert_close(dense.exp().sum(-1), torch.ones_like(tail), rtol=1e-6, atol=1e-6)


def test_the_dense_reading_is_wrong_only_within_the_tail(tmp_path: Path) -> None:
    teacher, source, k = language_model(), Texts(9), 20
    store = build_store(tmp_path, teacher, source, signals={"logits": TopK(k)})
    p, indices, tail = oracle(teacher.signals(everything(source))["logits"], k, 1.0)
    read = store.read(np.arange(9))["logits"].double()
    within = p.scatter(-1, indices, 0.0) / tail.unsqueeze(-1)
    entropy = -torch.xlogy(within, within).sum(-1)
    stated = tail * (math.log(VOCABULARY - k) - entropy)
    found = (p * (p.log() - read)).sum(-1)
    assert 0.01 < float(tail.mean()) < 0.5
    torch.testing.assert_close(found, stated, rtol=0.02, atol=1e-3)
    assert ((p - read.exp()).abs().sum(-1) <= 2 * tail + 2e-3).all()


def test_the_sparse_loss_reads_what_the_store_gives(tmp_path: Path) -> None:
    teacher, source = language_model(), Texts(9)
    store = build_store(tmp_path, teacher, source, signals={"logits": TopK(30)})
    read = store.read(np.arange(9), ["logits.topk.values", "logits.topk.indices"])
    live = teacher.signals(everything(source))["logits"]
    student = live + torch.randn(live.shape, generator=torch.Generator().manual_seed(2))
    sparse = sparse_forward_kl(student, read["logits.topk.values"], read["logits.topk.indices"])
    p, indices, tail = oracle(live, 30, 1.0)
    q = student.double().softmax(-1)
    head_p, head_q = p.gather(-1, indices), q.gather(-1, indices)
    exact = (head_p * (head_p / head_q).log()).sum(-1) + tail * (tail / (1 - head_q.sum(-1))).log()
    torch.testing.assert_close(sparse.double(), exact, rtol=0, atol=4e-3)
    assert (sparse <= forward_kl(student, live) + 4e-3).all()


@pytest.mark.parametrize(("classes", "width"), [(65_536, 2), (65_537, 4)])
def test_ids_take_16_bits_while_they_can(classes: int, width: int) -> None:
    layout = TopK(2).fitted(torch.zeros(1, classes))
    logits = torch.zeros(1, classes)
    logits[0, classes - 1] = 9.0
    record = np.zeros(1, dtype=layout.columns("logits"))
    for column, values in layout.encode("logits", logits).items():
        record[column] = values
    assert record.itemsize == 2 * (2 + width) + 4
    columns = {column: record[column] for column, _, _ in layout.columns("logits")}
    assert int(layout.decode("logits", columns, [])["logits.topk.indices"][0, 0]) == classes - 1


def test_classes_the_teacher_excludes_stay_excluded(tmp_path: Path) -> None:
    layout = TopK(3).fitted(torch.zeros(1, 6))
    logits = torch.tensor([[2.0, 1.0, -math.inf, -math.inf, -math.inf, -math.inf]])
    read = layout.decode("logits", layout.encode("logits", logits), ["logits"])["logits"]
    torch.testing.assert_close(read.softmax(-1), logits.softmax(-1), rtol=0, atol=1e-3)
    assert (read[0, 2:] == -math.inf).all()


def test_info_states_bytes(tmp_path: Path) -> None:
    build_store(tmp_path, language_model(), Texts(9), signals={"logits": TopK(8)})
    told = info(tmp_path)
    assert told["signals"]["logits"]["bytes_per_token"] == 8 * (2 + 2) + 4
    assert (told["records"], told["signals"]["logits"]["bytes_per_example"]) == (9, (TOKENS - 1) * 36)
    assert json.loads(json.dumps(told)) == told


# ---- whose store it is


def test_another_teacher_view_or_layout_is_named(tmp_path: Path) -> None:
    source = pictures(10)
    build_store(tmp_path, classifier(), source)
    before = contents(tmp_path)
    with pytest.raises(StillhouseError, match=r"the teacher \(") as told:
        build_store(tmp_path, classifier(seed=1), source)
    assert "the view" not in str(told.value)
    with pytest.raises(StillhouseError, match=r"the view \(.*0\.5") as told:
        build_store(tmp_path, classifier(mean=(0.5,)), source)
    assert "the teacher (" not in str(told.value)
    with pytest.raises(StillhouseError, match="what is stored"):
        build_store(tmp_path, classifier(), source, signals={"logits": Dense("float16")})
    with pytest.raises(StillhouseError, match="not this teacher's store: the teacher"):
        StoredTeacher(Store.open(tmp_path), source, classifier(seed=1))
    assert contents(tmp_path) == before


def test_a_weight_that_moved_makes_another_teacher() -> None:
    teacher = classifier()
    before = identity_of(teacher)
    with torch.no_grad():
        teacher.network[1].weight[3, 3] += 1e-7
    assert before.differences(identity_of(teacher)) != []
    assert identity_of(classifier()) == before
    with pytest.raises(StillhouseError, match="`identity`"):
        identity_of(object())


def test_another_source_is_named(tmp_path: Path) -> None:
    build_store(tmp_path, classifier(), pictures(10))
    with pytest.raises(StillhouseError, match="the source differs"):
        StoredTeacher(Store.open(tmp_path), pictures(10, seed=5))
    with pytest.raises(StillhouseError, match="tells inputs by image, and the batch has no image"):
        StoredTeacher(Store.open(tmp_path), Texts(10))


def test_a_source_that_augments_is_refused(tmp_path: Path) -> None:
    store = build_store(tmp_path, classifier(), pictures(10, pad=1))
    with pytest.raises(StillhouseError, match=r"augments its training inputs.*leave the store out"):
        StoredTeacher(store, pictures(10, pad=1), classifier())


def test_changed_inputs_are_refused_whatever_the_source_says(tmp_path: Path) -> None:
    source = pictures(10)
    teacher = StoredTeacher(build_store(tmp_path, classifier(), source), source, classifier())
    batch = everything(source)
    batch["image"] = batch["image"].clone()
    batch["image"][7, 0, 0, 0] += 1e-6
    with pytest.raises(StillhouseError, match=r"1 of 10 inputs .* the first at index 7"):
        teacher.signals(batch)


def test_inputs_that_change_later_are_found(tmp_path: Path) -> None:
    source = pictures(70)
    teacher = StoredTeacher(build_store(tmp_path, classifier(), source), source)
    batch = everything(source)
    teacher.signals(batch)
    edited = batch | {"image": batch["image"].clone()}
    edited["image"][69] = 0.0
    with pytest.raises(StillhouseError, match=r"1 of 6 inputs .* the first at index 69"):
        _ = [teacher.signals(edited) for _ in range(16)]  # of 70 inputs, 32 are compared, then 6
    with pytest.raises(StillhouseError, match="32 of 32 inputs"):
        _ = [teacher.signals(batch | {"image": batch["image"].flip(-1)}) for _ in range(8)]


def test_labels_may_change_for_the_teacher_never_looked_at_them(tmp_path: Path) -> None:
    source = pictures(10)
    teacher = StoredTeacher(build_store(tmp_path, classifier(), source), source)
    batch = everything(source)
    batch["labels"] = batch["labels"] + 1
    assert teacher.signals(batch)["logits"].shape == (10, CLASSES)


class Labelled(nn.Module):
    """A teacher that sees the answers."""

    def signals(self, batch: Batch, wants: object = ("logits",)) -> dict[str, Tensor]:
        return {"logits": nn.functional.one_hot(batch["labels"], CLASSES).float()}


def test_a_teacher_that_sees_the_labels_is_stored_by_them(tmp_path: Path) -> None:
    source = pictures(10)
    store = build_store(tmp_path, Labelled(), source)
    assert store.inputs == ["labels"]
    assert len(store) == len(set(everything(source)["labels"].tolist()))
    served = StoredTeacher(store, source).signals(everything(source))["logits"]
    assert torch.equal(served, Labelled().signals(everything(source))["logits"])


# ---- growing


def test_a_source_that_grew_costs_only_what_is_new(tmp_path: Path) -> None:
    teacher, few, many = classifier(), pictures(20), pictures(50)
    many.images[:20], many.labels[:20] = few.images, few.labels
    build_store(tmp_path, teacher, few, batch_size=8)
    first = contents(tmp_path / "shards")
    asked = 0

    def counted(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        nonlocal asked
        asked += len(args[0])

    teacher.network.register_forward_pre_hook(counted)
    store = build_store(tmp_path, teacher, many, batch_size=8)
    assert asked - 1 == 30  # one more to see what the teacher gives
    assert len(store) == 50
    assert contents(tmp_path / "shards").items() >= first.items()
    for source in (few, many):
        served = StoredTeacher(Store.open(tmp_path), source).signals(everything(source))["logits"]
        torch.testing.assert_close(served, teacher.signals(everything(source))["logits"], rtol=1e-6, atol=1e-6)


def test_a_shuffled_part_of_the_source_is_served_without_building(tmp_path: Path) -> None:
    teacher, source = classifier(), pictures(30)
    store = build_store(tmp_path, teacher, source)
    part = ImageArray(source.images, source.labels, rows=torch.tensor([17, 3, 29, 4]), fingerprint="a part")
    assert store.rows(part).tolist() == [17, 3, 29, 4]
    served = StoredTeacher(store, part).signals(everything(part))["logits"]
    torch.testing.assert_close(served, teacher.signals(everything(part))["logits"], rtol=1e-6, atol=1e-6)


def test_equal_inputs_are_stored_once(tmp_path: Path) -> None:
    source = pictures(10)
    source.images[1:9] = source.images[0]
    store = build_store(tmp_path, classifier(), source, batch_size=4)
    assert len(store) == 2
    assert store.rows(source).tolist() == [0] * 9 + [1]


def test_what_the_store_lacks_comes_from_the_live_teacher_and_is_counted(tmp_path: Path) -> None:
    teacher, few, many = classifier(), pictures(10), pictures(30)
    many.images[:10] = few.images
    store = build_store(tmp_path, teacher, few)
    with pytest.raises(StillhouseError, match="holds 10 of the source's 30 inputs"):
        StoredTeacher(store, many)
    mixed = StoredTeacher(store, many, teacher)
    assert mixed.fraction == 0.0
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    served = mixed.signals(many.fetch(order, None))["logits"]
    torch.testing.assert_close(served, teacher.signals(many.fetch(order, None))["logits"], rtol=1e-6, atol=1e-6)
    assert (mixed.served, mixed.asked, mixed.fraction) == (10, 30, 1 / 3)


def test_inputs_without_a_place_in_the_source_need_the_live_teacher(tmp_path: Path) -> None:
    source = pictures(10)
    store, batch = build_store(tmp_path, classifier(), source), everything(source)
    del batch["index"]
    with pytest.raises(StillhouseError, match="no live teacher"):
        StoredTeacher(store, source).signals(batch)
    mixed = StoredTeacher(store, source, classifier())
    assert torch.equal(mixed.signals(batch)["logits"], classifier().signals(batch)["logits"])
    assert mixed.fraction == 0.0


def test_a_signal_that_is_not_stored_is_named(tmp_path: Path) -> None:
    source = pictures(10)
    teacher = StoredTeacher(build_store(tmp_path, classifier(), source), source)
    with pytest.raises(StillhouseError, match=r"holds logits, and features\.1 is wanted"):
        teacher.signals(everything(source), ["features.1"])


# ---- damage


@pytest.fixture
def built(tmp_path: Path) -> Path:
    build_store(tmp_path, classifier(), pictures(64), batch_size=8, shard_records=16)
    assert verify(tmp_path) == []
    return tmp_path


@pytest.mark.parametrize(
    "name",
    ["shards/000001.records", "shards/000002.keys", "shards/000003.json", "store.json", "sources/*.rows"],
)
def test_any_flipped_byte_is_found_and_its_file_named(built: Path, name: str) -> None:
    (path,) = built.glob(name)
    whole = path.read_bytes()
    draw = random.Random(0)
    for _ in range(10):
        place = draw.randrange(len(whole))
        flipped = bytearray(whole)
        flipped[place] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        problems = verify(built)
        if not problems:  # a JSON file may say the same in other words: white space, the case of an escape
            assert json.loads(bytes(flipped)) == json.loads(whole)
        else:
            assert path.stem in problems[0]
    path.write_bytes(whole)
    assert verify(built) == []


def test_a_damaged_shard_is_never_served_and_the_others_are(built: Path) -> None:
    path = built / "shards" / "000001.records"
    flipped = bytearray(path.read_bytes())
    flipped[5] ^= 4
    path.write_bytes(flipped)
    store = Store.open(built)
    assert store.read([0, 40])["logits"].isfinite().all()
    with pytest.raises(StillhouseError, match=r"000001\.records is damaged"):
        store.read([0, 17])


@pytest.mark.parametrize("suffix", ["records", "keys"])
def test_a_truncated_shard_is_refused_on_opening(built: Path, suffix: str) -> None:
    path = built / "shards" / f"000002.{suffix}"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StillhouseError, match=rf"000002\.{suffix} has .* bytes"):
        Store.open(built)
    assert len(verify(built)) == 1


def test_a_damaged_shard_that_was_deleted_is_built_again(built: Path) -> None:
    for path in (built / "shards").glob("000001.*"):
        path.unlink()
    source = pictures(64)
    with pytest.raises(StillhouseError, match="holds 48 of the source's 64"):
        StoredTeacher(Store.open(built), source)
    store = build_store(built, classifier(), source, batch_size=8)
    assert len(store) == 64
    served = StoredTeacher(Store.open(built), source).signals(everything(source))["logits"]
    torch.testing.assert_close(served, classifier().signals(everything(source))["logits"], rtol=1e-6, atol=1e-6)
    assert verify(built) == []


def test_a_folder_that_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StillhouseError, match="is no store"):
        Store.open(tmp_path)
    assert "is no store" in verify(tmp_path)[0]


# ---- kills and company

PROCESSES = multiprocessing.get_context("forkserver")
PRELOADED = ["torch", "pytest", "stillhouse.methods.match", "stillhouse.recipe.targets"]
PROCESSES.set_forkserver_preload(PRELOADED)  # imported once for all the processes started here


def started(target: Callable[..., None], *arguments: object) -> BaseProcess:
    """A process that has done its imports."""
    begun = PROCESSES.Event()
    process = PROCESSES.Process(target=target, args=(begun, *arguments), daemon=True)
    process.start()
    assert begun.wait(60)
    return process


def ended(process: BaseProcess) -> int | None:
    process.join(60)
    return process.exitcode


def build_slowly(begun: Event, folder: Path) -> None:
    torch.set_num_threads(1)
    source, teacher = pictures(600), classifier()
    begun.set()
    build_store(folder, teacher, source, batch_size=8, shard_records=16, on_progress=lambda *_: time.sleep(0.004))


def test_killed_at_any_time_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    build_store(whole, classifier(), pictures(600), batch_size=8, shard_records=16)
    draw, kept = random.Random(7), [0]
    for _ in range(6):
        process = started(build_slowly, broken)
        goal = shards(broken) + draw.randrange(4)  # of 38
        while shards(broken) < goal:
            time.sleep(0.001)
        time.sleep(draw.uniform(0.0, 0.02))
        process.kill()
        assert ended(process) == -signal.SIGKILL, "the kill came too late to test anything"
        if (broken / "store.json").exists():
            assert verify(broken) == []
            kept.append(len(Store.open(broken)))
    assert kept == sorted(kept)
    assert 0 < kept[-1] < 600
    assert ended(started(build_slowly, broken)) == 0
    assert contents(broken) == contents(whole)


def shards(folder: Path) -> int:
    return len(list(folder.glob("shards/*.json")))


def build_until(begun: Event, folder: Path, writes: int) -> None:
    """Build two shards, and be killed half-way through the given write of a file."""
    torch.set_num_threads(1)
    begun.set()
    write, count = Path.write_bytes, 0

    def counted(path: Path, content: bytes) -> int:
        nonlocal count
        count += 1
        if count == writes:
            write(path, content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return write(path, content)

    Path.write_bytes = counted  # pyright: ignore[reportAttributeAccessIssue]
    build_store(folder, classifier(), pictures(24), batch_size=4, shard_records=12)


FILES_WRITTEN = 1 + 2 * 3 + 2
"""store.json, three files for each of two shards, two for the source."""


def test_killed_while_any_file_is_written_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    build_store(whole, classifier(), pictures(24), batch_size=4, shard_records=12)
    for writes in range(1, FILES_WRITTEN + 1):
        broken = tmp_path / str(writes)
        assert ended(started(build_until, broken, writes)) == -signal.SIGKILL
        build_store(broken, classifier(), pictures(24), batch_size=4, shard_records=12)
        assert contents(broken) == contents(whole)
    assert ended(started(build_until, tmp_path / "none", FILES_WRITTEN + 1)) == 0, "some writes went untested"


def test_half_written_files_are_replaced(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        build_store(folder, classifier(), pictures(64), batch_size=8, shard_records=16)
    shard = broken / "shards" / "000003"
    for path in (broken / "sources").iterdir():
        path.unlink()
    shard.with_suffix(".json").unlink()
    shard.with_suffix(".records").write_bytes(b"half")
    (broken / "shards" / ".000003.keys.1234.tmp").write_bytes(b"half")
    assert len(Store.open(broken)) == 48
    build_store(broken, classifier(), pictures(64), batch_size=8, shard_records=16)
    assert contents(broken) == contents(whole)


def build_half(begun: Event, folder: Path, go_on: Event) -> None:
    """Build a store, and wait in the middle until told to go on."""
    torch.set_num_threads(1)

    def wait(done: int, total: int) -> None:
        if done == total // 2:
            begun.set()
            go_on.wait(60)

    build_store(folder, classifier(), pictures(240), batch_size=8, shard_records=16, on_progress=wait)


def read_much(begun: Event, folder: Path, seed: int) -> None:
    torch.set_num_threads(1)
    wanted = classifier().signals(everything(pictures(240)))["logits"]
    store = Store.open(folder)
    assert 0 < len(store) < 240
    begun.set()
    draw = torch.Generator().manual_seed(seed)
    for _ in range(50):
        rows = torch.randint(len(store), (64,), generator=draw)
        torch.testing.assert_close(store.read(rows)["logits"], wanted[rows], rtol=1e-5, atol=1e-6)
        store = Store.open(folder)


def test_processes_read_while_one_builds_and_no_second_one_builds(tmp_path: Path) -> None:
    go_on = PROCESSES.Event()
    writer = started(build_half, tmp_path, go_on)
    with pytest.raises(StillhouseError, match="another process is building"):
        build_store(tmp_path, classifier(), pictures(240), batch_size=8)
    readers = [started(read_much, tmp_path, seed) for seed in range(2)]
    go_on.set()
    assert [ended(reader) for reader in readers] == [0, 0]
    assert ended(writer) == 0
    assert len(Store.open(tmp_path)) == 240
    assert verify(tmp_path) == []


def test_a_disk_that_fills_up_says_so_and_keeps_what_was_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = pictures(40)
    few = ImageArray(many.images, many.labels, rows=torch.arange(16), fingerprint="a part")
    build_store(tmp_path, classifier(), few, batch_size=8, shard_records=8)
    before, really = contents(tmp_path), Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if "000003" in path.name:
            really(path, content[:5])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return really(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(StillhouseError, match=r"000003.*No space left.*build again"):
            build_store(tmp_path, classifier(), many, batch_size=8, shard_records=8)
    assert contents(tmp_path).items() >= before.items()
    assert verify(tmp_path) == []
    assert len(Store.open(tmp_path)) == 24
    assert len(build_store(tmp_path, classifier(), many, batch_size=8)) == 40


# ---- a stored teacher in the place of a live one


def trained_student(teacher: object, steps: int = 30, top_k: bool = False) -> tuple[dict[str, Tensor], float]:
    """A linear student after some steps of `match` on the digits."""
    data = digits(Digits(shift=0))
    torch.manual_seed(0)
    student = Model(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), ImageView(Image()))
    terms = [{"signal": "logits", "by": "kl", "temperature": 2.0}, {"signal": "labels", "by": "cross_entropy"}]
    roles = Roles(student, teacher, Facts("classification"), data.train.fetch(torch.arange(4), None))
    method = Match(MatchKind.model_validate({"terms": terms}), roles)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.5)
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        batch = data.train.fetch(torch.randint(len(data.train), (64,), generator=draw), draw)
        (turn,) = method.schedule()
        losses: Losses = turn.losses(batch, draw)
        optimizer.zero_grad()
        torch.stack([loss.weight * loss.values.mean() for loss in losses.values()]).sum().backward()
        optimizer.step()
    right = student.signals(everything(data.test))["logits"].argmax(-1) == everything(data.test)["labels"]
    return dict(student.network.state_dict()), float(right.float().mean())


def digit_teacher(seed: int) -> Frozen:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    data = digits(Digits(shift=0))
    batch = everything(data.train)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(batch["image"]), batch["labels"]).backward()
        optimizer.step()
    return Frozen(Model(network, ImageView(Image())))


def test_a_stored_teacher_makes_the_same_student_as_the_live_one(tmp_path: Path) -> None:
    teacher, data = digit_teacher(0), digits(Digits(shift=0))
    stored = {
        name: StoredTeacher(build_store(tmp_path / name, teacher, data.train, signals={"logits": layout}), data.train)
        for name, layout in {
            "exact": Dense(),
            "half": Dense("float16"),
            "all": TopK(10, 2.0),
            "top": TopK(4, 2.0),
        }.items()
    }
    live, accuracy = trained_student(teacher)
    other, _ = trained_student(digit_teacher(1))
    assert accuracy > 0.85
    size = max(float((live[n] - other[n]).abs().max()) for n in live)
    distance = {}
    for name, replacement in stored.items():
        weights, found = trained_student(replacement)
        distance[name] = max(float((live[n] - weights[n]).abs().max()) for n in live)
        assert abs(found - accuracy) < 0.01
        assert replacement.fraction == 1.0
    assert size > 0.01, "another teacher must make another student, or the comparison says nothing"
    assert distance["exact"] < 1e-5
    assert distance["half"] < 1e-3
    assert distance["all"] < 1e-3
    assert 1e-5 < distance["top"] < size / 2


RECIPE = """
name: small
data: {kind: digits, shift: 0}
teacher:
  network: {kind: convnet, width: 2}
  weights: {kind: trained, epochs: 1}
student:
  network: {kind: convnet, width: 1}
method:
  kind: match
  terms:
    - {signal: logits, by: kl, temperature: 2.0}
    - {signal: labels, by: cross_entropy}
train: {epochs: 1, batch_size: 64}
control: false
evaluate: [accuracy, agreement]
"""


def test_a_recipe_runs_with_a_store_in_the_place_of_its_teacher(tmp_path: Path) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(RECIPE)
    store = build_for(load(recipe), tmp_path / "store", top_k=10, device="cpu", progress=False)
    assert len(store) == len(digits(Digits(shift=0)).train)
    kept = tmp_path / "store" / "teacher" / "weights.safetensors"
    overrides = [f"teacher.store={tmp_path / 'store'}", f"teacher.weights={{kind: file, path: {kept}}}"]
    live = distill(load(recipe), out=tmp_path / "live", device="cpu", progress=False)
    # Hardly trained, as it is, the preflight takes this teacher for one that does not fit the data.
    stored = distill(load(recipe, overrides), out=tmp_path / "stored", device="cpu", progress=False, check=False)
    ledger = json.loads((stored.folder / "ledger.json").read_text())
    assert ledger["student"]["teacher_from_store"] == 1.0
    assert stored.summary["arms"]["teacher"] == live.summary["arms"]["teacher"]
    ours, theirs = (load_file(next((run.folder / "student").glob("*.safetensors"))) for run in (live, stored))
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=0, atol=1e-3)
    report = check(load(recipe, overrides[:1]))
    assert report.passed, "the weights that a rehearsal gives the teacher are not those it will be trained to"
    with pytest.raises(StillhouseError, match="not this teacher's store: the teacher"):
        distill(load(recipe, [overrides[0], "seed=1"]), out=tmp_path / "other", device="cpu", progress=False)


def test_a_store_for_a_recipe_that_augments_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(RECIPE.replace("shift: 0", "shift: 1"))
    with pytest.raises(StillhouseError, match=r"augments its training inputs.*with data\.shift=0$"):
        build_for(load(recipe), tmp_path / "store", device="cpu", progress=False)
