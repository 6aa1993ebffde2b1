"""Batches, answers and losses of PEFT's comparison, against literal values."""

import itertools
import math

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from language_model import byte_tokenizer
from peft_comparison.accuracy import answer_accuracy, parsed_answer
from peft_comparison.batches import training_batches
from peft_comparison.evaluation import accuracy_on, generation_config, loss_on_other_texts
from peft_comparison.memory import Memory
from peft_comparison.train_config import TrainConfig

END = 2


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So 4^2 = 16. The answer is: 16", "16"),
        ("The answer is: 7. The answer is: $8$.", "8"),
        ("They are 50%.\n#### 50%", "50"),
        ("The answer is 3\n\nQuestion: 4?", "3"),
        ("The final answer is: x + 1", "x + 1"),
        ("sixteen", None),
    ],
)
def test_an_answer_is_what_comes_last(text, answer):
    assert parsed_answer(text) == answer


@pytest.mark.parametrize(
    ("written", "right", "share"),
    [
        ("The answer is: 16.0", "#### 16", 1),
        ("The answer is: 20/35", "The answer is: 4/7", 1),
        ("The answer is: 1/0", "The answer is: 2", 0),
        ("The answer is: a/b/c", "The answer is: a/b/c", 1),
        ("16", "The answer is: 16", 0),
        ("The answer is: 1,000", "#### 1000", 0),
    ],
)
def test_answers_are_compared_as_numbers(written, right, share):
    assert answer_accuracy([written], [right]) == share


def test_batches_go_from_long_to_short_and_end_each_text():
    tokenizer = byte_tokenizer()
    rows = [("", "a" * length) for length in (1, 3, 2)]
    config = TrainConfig(query_template="{query}", batch_size=2)
    first, second, third = itertools.islice(training_batches(rows, tokenizer, config), 3)
    a = tokenizer("a")["input_ids"][0]
    assert first.inputs["input_ids"].tolist() == [[a, a, a, END], [a, a, END, END]]
    assert first.inputs["labels"].tolist() == [[a, a, a, END], [a, a, END, -100]]
    assert first.inputs["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]
    # The tokens of the texts; with an end token each, they are what was learnt.
    assert (first.inputs["num_items_in_batch"], first.tokens, first.rows) == (5, 7, 2)
    assert second.inputs["input_ids"].tolist() == [[a, END]]
    # The rows come again.
    assert third.inputs["input_ids"].equal(first.inputs["input_ids"])


def test_a_bucket_of_twenty_batches_is_sorted_by_itself():
    rows = [("", "a" * (1 + i)) for i in range(21)]
    config = TrainConfig(query_template="{query}", batch_size=1)
    batches = itertools.islice(training_batches(rows, byte_tokenizer(), config), 21)
    assert [batch.tokens - 1 for batch in batches] == [*range(20, 0, -1), 21]


@pytest.mark.parametrize(
    ("given", "length", "new"),
    [
        ({"max_length": 800, "max_new_tokens": 300}, 100, 300),
        ({"max_length": 800, "max_new_tokens": 300}, 700, 100),
        ({"max_length": 800}, 100, 700),
        ({"max_length": 10}, 20, 1),
    ],
)
def test_an_answer_ends_at_the_first_of_both_limits(given, length, new):
    config = generation_config(given, length)
    assert (config.max_new_tokens, config.max_length) == (new, None)


def test_answers_are_greedy_unless_the_experiment_says_otherwise():
    assert generation_config({}, 1).do_sample is False
    assert generation_config({"do_sample": True}, 1).do_sample is True


def test_other_texts_have_the_mean_loss_of_their_tokens(language_model):
    model = LlamaForCausalLM.from_pretrained(language_model)
    tokenizer = byte_tokenizer()
    texts = ["abcd", "ab"]
    found = loss_on_other_texts(texts, model, tokenizer, TrainConfig(batch_size=2))
    same, following = [], []
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        rows = model(torch.tensor([ids])).logits[0].double().log_softmax(-1).tolist()
        same += [-rows[i][token] for i, token in enumerate(ids)]
        following += [-rows[i][token] for i, token in enumerate(ids[1:])]
    assert math.isclose(found.same_position, sum(same) / 6, rel_tol=1e-5)
    assert math.isclose(found.next_token, sum(following) / 4, rel_tol=1e-5)


class Parrot(nn.Module):
    """Writes "b" after each prompt, and ends."""

    device = torch.device("cpu")

    def __init__(self, letter: int) -> None:
        super().__init__()
        self.letter = letter
        self.generation_config = generation_config({}, 1)

    def generate(self, input_ids, generation_config, **_):
        assert generation_config.eos_token_id == [END]
        written = torch.tensor([self.letter, END]).expand(len(input_ids), 2)
        return torch.cat([input_ids, written], 1)


def test_only_what_comes_after_the_prompt_is_an_answer():
    tokenizer = byte_tokenizer()
    rows = [("a", "b"), ("aaa", " b\n"), ("b", "bb")]
    model = Parrot(tokenizer("b")["input_ids"][0])
    seen = []

    def accuracy(written, right):
        seen.append((list(written), list(right)))
        return 0.5

    config = TrainConfig(query_template="{query}", batch_size_eval=2)
    assert accuracy_on(rows, model, tokenizer, config, accuracy) == 0.5
    assert seen == [(["b", "b", "b"], ["b", " b\n", "bb"])]


def test_memory_is_counted_above_what_was_there_before(monkeypatch):
    held = {"allocated": 5, "reserved": 10, "largest": 10}
    counts = {
        "reset_peak_memory_stats": lambda: None,
        "empty_cache": lambda: None,
        "memory_allocated": lambda: held["allocated"],
        "memory_reserved": lambda: held["reserved"],
        "max_memory_reserved": lambda: held["largest"],
        "get_device_name": lambda _: "Abacus",
    }
    for name, count in counts.items():
        monkeypatch.setattr(torch.cpu, name, count, raising=False)
    memory = Memory("cpu")
    held |= {"allocated": 20, "reserved": 30, "largest": 50}
    memory.log_step()
    assert (memory.allocated_log, memory.reserved_log, memory.largest) == ([10], [20], 40)
    assert memory.name() == "Abacus"


def test_where_torch_counts_no_memory_that_of_the_process_is_taken(monkeypatch):
    resident = iter([100, 130, 120])
    monkeypatch.setattr(Memory, "_resident", lambda _: next(resident))
    memory = Memory("cpu")
    memory.log_step()
    memory.log_step()
    assert (memory.reserved_log, memory.largest, memory.name()) == ([30, 20], 30, "cpu")
