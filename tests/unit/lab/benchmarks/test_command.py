"""`lora2 bench` on tiny models: what it writes, and what it refuses."""

import json
import mmap
import time
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from benchmark_case import TINY, TINY_BERT, options
from command_line import lora2, refused
from lora2.lab.benchmarks import compiled, resident, sections, sweeps, widths
from lora2.lab.benchmarks.chart import to_floor
from lora2.lab.benchmarks.methods import BENCHMARK_METHODS
from lora2.lab.benchmarks.progress import watch_on
from lora2.lab.benchmarks.record import BenchmarkRecord, device_name, make_record
from lora2.lab.benchmarks.report import sweeps_tables
from lora2.lab.benchmarks.resident import PeakResidentSet
from lora2.lab.benchmarks.workloads import WORKLOADS
from narrow import check_figures

pytestmark = pytest.mark.slow

SMALL = ["--k=2", "--r=4", "--rounds=2"]


@pytest.fixture(autouse=True)
def tiny_workloads(monkeypatch):
    for workload in TINY:
        monkeypatch.setitem(WORKLOADS, workload.name, workload)
    monkeypatch.setattr(widths, "MATRICES", 2)
    monkeypatch.setattr(widths, "_ROUNDS", 2)
    monkeypatch.setattr(sweeps, "WIDTHS_K", (1, 4))
    monkeypatch.setattr(sweeps, "RANKS_R", (8, 16))


def bench(folder, *arguments):
    assert lora2("bench", *arguments, f"--output_dir={folder}", *SMALL) == 0
    for path in folder.glob("*.json"):
        record = BenchmarkRecord.read(path)
        for table in sections.SECTIONS[record.section].tables(record):
            check_figures(table, 60)


def test_bench_writes_record_and_chart_and_prints_the_table(tmp_path, capsys):
    bench(tmp_path / "out", "--models=tiny,tiny-llama")
    printed = capsys.readouterr().out
    assert "tiny BERT" in printed
    assert "PEFT AdaLoRA" in printed
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"steps-cpu-float32.json", "steps-cpu-float32.png"}
    record = BenchmarkRecord.read(tmp_path / "out" / "steps-cpu-float32.json")
    assert record.section == "steps"
    assert record.options["k"] == 2
    assert record.threads == torch.get_num_threads()
    assert {"torch", "transformers", "peft", "lora2"} <= record.environment["versions"].keys()
    assert [result["model"] for result in record.results] == ["tiny", "tiny-llama"]
    for result in record.results:
        assert result["seconds"].keys() == BENCHMARK_METHODS.keys()
        assert all(len(values) == 2 for values in result["seconds"].values())
        assert (result["batch_size"], result["length"]) == (2, 4)
    assert record.results[0]["adapted_matrices"] == 12


def test_bench_in_bfloat16_with_some_methods_and_another_batch(tmp_path):
    chosen = ["--dtype=bfloat16", "--methods=lora,lora2", "--batch_size=3", "--length=5"]
    bench(tmp_path, "steps", "--models=tiny", *chosen)
    result = BenchmarkRecord.read(tmp_path / "steps-cpu-bfloat16.json").results[0]
    assert result["seconds"].keys() == {"lora", "lora2"}
    assert (result["batch_size"], result["length"]) == (3, 5)


def test_other_methods_of_peft_are_measured_by_name(tmp_path, capsys):
    bench(tmp_path, "steps", "--models=tiny", "--methods=lora,dora,delora")
    result = BenchmarkRecord.read(tmp_path / "steps-cpu-float32.json").results[0]
    assert result["seconds"].keys() == {"lora", "dora", "delora"}
    assert "PEFT DoRA" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["poly", "trainable_tokens"])
def test_a_method_that_cannot_train_is_one_sentence_and_leaves_no_folder(method, tmp_path, capsys):
    words = ["steps", "--models=tiny", f"--methods=lora,{method}", *SMALL]
    said = refused(capsys, "bench", *words, f"--output_dir={tmp_path / 'out'}")
    assert "methods: " in said
    assert method in said
    assert not (tmp_path / "out").exists()


def test_one_sweep_can_be_measured_alone(tmp_path):
    bench(tmp_path, "sweeps", "--models=tiny", "--warm_up=0", "--sweep=r")
    (result,) = BenchmarkRecord.read(tmp_path / "sweeps-cpu-float32.json").results
    assert list(result["sweeps"]) == ["r"]


def test_table_and_chart_of_a_sweep_have_the_same_ratios_and_no_size_that_grows(tmp_path):
    bench(tmp_path, "sweeps", "--models=tiny", "--warm_up=0")
    record = BenchmarkRecord.read(tmp_path / "sweeps-cpu-float32.json")
    (result,) = record.results
    for sweep in result["sweeps"].values():
        for value, point in sweep["points"].items():
            assert to_floor(sweep, "lora2", value) == point["to_floor"]["median"]
    assert [table.title for table in sweeps_tables(record)] == [
        "tiny BERT, 2 × 4 tokens, float32, r = 4",
        "tiny BERT, 2 × 4 tokens, float32, k = 2",
        "tiny BERT, 2 × 4 tokens, float32, k = 2, r = 4",
        "tiny BERT, float32, k = 2, r = 4",
    ]


@pytest.mark.parametrize("section", ["storage", "parts", "sweeps"])
def test_other_sections_write_record_and_chart(section, tmp_path, capsys):
    bench(tmp_path, section, "--models=tiny", "--warm_up=0")
    assert "tiny BERT" in capsys.readouterr().out
    assert (tmp_path / f"{section}-cpu-float32.png").stat().st_size > 0
    record = BenchmarkRecord.read(tmp_path / f"{section}-cpu-float32.json")
    assert len(record.results) == 1
    assert ("widths" in record.extra) == (section == "parts")


def test_memory_is_measured_in_a_process_of_its_own(tmp_path):
    bench(tmp_path, "memory", "--models=tiny", "--methods=lora2")
    counted = BenchmarkRecord.read(tmp_path / "memory-cpu-float32.json").results[0]["bytes"]
    assert counted.keys() == {"lora2"}
    assert counted["lora2"]["peak"] > counted["lora2"]["added"] > 0


@pytest.mark.parametrize("kernel_may_be_asked", [True, False])
def test_the_peak_holds_memory_that_is_free_again(kernel_may_be_asked, monkeypatch):
    if not kernel_may_be_asked:
        monkeypatch.setattr(resident, "_reset_peak", lambda: False)
    size = 64 * 2**20
    watched = PeakResidentSet()
    # Pages of the kernel's own: a tensor could be given memory that is resident already.
    with mmap.mmap(-1, size) as held:
        for page in range(0, size, mmap.PAGESIZE):
            held[page] = 1
        # Longer than the thread sleeps between two looks.
        time.sleep(0.1)
    assert watched.finish() - watched.before > 0.9 * size


# What dynamo does with any autograd function (torch 2.13).
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiling_breaks_no_graph_and_makes_one():
    one_layer = replace(TINY_BERT, config=dict(TINY_BERT.config) | {"num_hidden_layers": 1})
    watch = watch_on(Console(quiet=True))
    result = compiled.measure(options(rounds=1), one_layer, watch, backend="eager")
    assert result["graphs"].keys() == {"base", "lora", "lora2"}
    assert all(counted == {"breaks": 0, "graphs": 1} for counted in result["graphs"].values())


def test_a_missing_compiler_is_named_and_the_other_sections_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lora2.training.trainer.compilation.shutil.which", lambda name: None)
    assert "C++ compiler" in refused(capsys, "bench", "compile", f"--output_dir={tmp_path}")
    kept = {name: sections.SECTIONS[name] for name in ("steps", "compile")}
    monkeypatch.setattr("lora2.commands.bench.SECTIONS", kept)
    bench(tmp_path, "all", "--models=tiny")
    assert "C++ compiler" in capsys.readouterr().out
    assert (tmp_path / "steps-cpu-float32.json").is_file()


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = make_record("steps", options(), [{"model": "tiny", "seconds": {"lora": [0.5]}}], {})
    path = tmp_path / "record.json"
    record.write(path)
    assert BenchmarkRecord.read(path) == record
    assert json.loads(path.read_text())["device"] == device_name("cpu") != ""


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--models gpt", "'gpt'"),
        ("--models ,", "models"),
        ("--methods lora,lora3", "'lora3'"),
        ("--k 0", "k=0"),
        ("--r 0", "r=0"),
        ("--rounds 0", "rounds=0"),
        ("--warm_up -1", "warm_up=-1"),
        ("--batch_size 0", "batch_size=0"),
        ("sweeps --sweep d", "sweep: 'd' is none of k, r, matrices, batch"),
        ("--models tiny --length 17", "length=17"),
        ("--dtype float16", "float16"),
        ("nothing", "nothing"),
        ("--round 3", "--rounds"),
    ],
)
def test_bench_refuses(arguments, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert named in refused(capsys, "bench", *arguments.split())
    assert not list((tmp_path / "bench").glob("*"))


def test_bench_refuses_a_device_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "CUDA" in refused(capsys, "bench", "--device=cuda")


def test_bench_refuses_a_file_as_output_folder(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert "file" in refused(capsys, "bench", f"--output_dir={tmp_path / 'file'}")


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit) as ended:
        lora2("bench", "--help")
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert all(f"--{name}" in printed for name in vars(options()))
