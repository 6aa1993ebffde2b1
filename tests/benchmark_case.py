"""A tiny workload of each kind, for tests of the benchmark."""

from typing import Any

from lora2.lab.benchmarks.bench_arguments import BenchArguments
from lora2.lab.benchmarks.methods import prepare_all
from lora2.lab.benchmarks.trained_model import AdapterSize, TrainedModel
from lora2.lab.benchmarks.workloads import BatchSize, Workload

SIZE = AdapterSize(k=2, r=4)
BATCH = BatchSize(batch_size=2, length=4)
# "slow" is for a CPU without matrix kernels for the dtype, such as one that the tests run on.
_SIZES = dict.fromkeys(("cpu float32", "cpu bfloat16", "slow cpu bfloat16"), BATCH)

TINY_BERT = Workload(
    name="tiny",
    label="tiny BERT",
    task="sequence_classification",
    config={
        "model_type": "bert",
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 30,
        "max_position_embeddings": 16,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "problem_type": "single_label_classification",
    },
    head=("classifier",),
    matrices_per_layer=6,
    sizes=_SIZES,
)
TINY_LLAMA = Workload(
    name="tiny-llama",
    label="tiny Llama",
    task="causal_lm",
    config={
        "model_type": "llama",
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 16,
        "vocab_size": 30,
        "max_position_embeddings": 16,
        "tie_word_embeddings": True,
        "use_cache": False,
    },
    head=("model.norm",),
    matrices_per_layer=7,
    sizes=_SIZES,
)
TINY = (TINY_BERT, TINY_LLAMA)


def prepare(*names: str, workload: Workload = TINY_BERT, steps: int = 5) -> dict[str, TrainedModel]:
    """The named methods on copies of one tiny model."""
    return prepare_all(workload.build("float32", "cpu"), workload, SIZE, steps, names)


def options(**changed: Any) -> BenchArguments:
    """Options of a benchmark that takes a moment."""
    defaults = {"k": SIZE.k, "r": SIZE.r, "rounds": 2}
    return BenchArguments(**(defaults | changed))
