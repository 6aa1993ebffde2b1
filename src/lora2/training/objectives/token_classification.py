"""Tags for the words of texts: named entities, by transformers' Trainer."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from transformers import (
    BatchEncoding,
    DataCollatorForTokenClassification,
    PreTrainedTokenizerBase,
)

from lora2.data.loading.tags import load_tagged_rows, load_tagged_task
from lora2.data.own.tagged_rows import read_plain_texts, read_words
from lora2.data.tables.table import DataTable
from lora2.data.tasks.bio import OUTSIDE, Span, spans_of, words_of
from lora2.data.tasks.tagged_task import KIND, TAGS_COLUMN, TOKENS_COLUMN, TaggedTask, build_tagged
from lora2.data.tokenization.tags import NO_PIECE, PIECES_COLUMN, tokenize_tagged
from lora2.errors import UserError
from lora2.support.extras import require
from lora2.training.base_models.models import WORD_LABELS, BaseModel
from lora2.training.base_models.preprocessors import load_tokenizer
from lora2.training.finished_run.loaded_run import LoadedRun
from lora2.training.objectives.labelling import (
    HEAD_OPTIONS,
    HEAD_RECIPE,
    Labelling,
    ToLabel,
    padded,
)
from lora2.training.objectives.objective import Measured, Sets
from lora2.training.objectives.output import TAGS
from lora2.training.options.arguments import RunSettings
from lora2.training.scores.entity_metrics import (
    EXTRA,
    chosen_tags,
    compute_entity_metrics,
    entity_metrics,
)
from lora2.training.trainer.tag_trainer import TagTrainer


class TokenClassification(Labelling):
    """A tag for each word."""

    name = "token-classification"
    output = TAGS
    head_kind = WORD_LABELS
    trainer_class = TagTrainer
    options = HEAD_OPTIONS | {"classifier_dropout"}
    recipe: ClassVar[Mapping[str, Any]] = {**HEAD_RECIPE, "num_train_epochs": 4.0}

    def check(self, settings: RunSettings) -> None:
        """Need seqeval, and a method that leaves words where they are."""
        require("seqeval.metrics", extra=EXTRA)
        self.refuse_prompts(settings)

    def load_preprocessor(self, name: str) -> PreTrainedTokenizerBase:
        """Return the tokenizer; one of bytes reads each word as it is after a blank."""
        tokenizer = load_tokenizer(name)
        if getattr(tokenizer, "add_prefix_space", None) is False:
            tokenizer = load_tokenizer(name, add_prefix_space=True)
        # A tag is found at the place of its token, which padding in front would shift.
        tokenizer.padding_side = "right"
        return tokenizer

    def load_data(self, settings: RunSettings) -> TaggedTask:
        """Return the task that the data options name."""
        return load_tagged_task(**settings.data.for_loader("text_columns", "label_column"))

    def training_labels(self, task: TaggedTask) -> list[int]:
        """Return the tags of all words of the training rows."""
        return [tag for row in task.train[TAGS_COLUMN] for tag in row]

    def encode(
        self,
        settings: RunSettings,
        task: TaggedTask,
        tokenizer: PreTrainedTokenizerBase,
        base: BaseModel,
    ) -> Sets:
        """Return token ids, and labels at the first piece of each word."""
        return {
            name: tokenize_tagged(rows, tokenizer, settings.data.max_length).remove_columns(
                PIECES_COLUMN
            )
            for name, rows in task.sets.items()
        }

    def batches_and_metrics(
        self, task: TaggedTask, tokenizer: PreTrainedTokenizerBase
    ) -> dict[str, Any]:
        """Return what pads words with their tags, and the metrics of entities."""
        return {
            "data_collator": DataCollatorForTokenClassification(tokenizer),
            "compute_metrics": compute_entity_metrics(task.label_names),
            "preprocess_logits_for_metrics": chosen_tags,
        }

    # Methods for a finished run

    def trains_on(self, task: Mapping[str, Any]) -> bool:
        """Whether a task is one of tags."""
        return task.get("kind") == KIND

    def learnt(self, task: Mapping[str, Any]) -> str:
        """Return what it has learnt, in words."""
        return "tags of words"

    def read_scored_rows(self, path: Path, task: Mapping[str, Any]) -> Any:
        """Return the rows of a file, with tags of the run's task."""
        return load_tagged_rows(path, task)

    def measure(self, run: LoadedRun, rows: Any, batch_size: int) -> Measured:
        """Return the metrics of whole entities, and the accuracy of words."""
        names = run.task["label_names"]
        expected, found = [], []
        for tags, read in zip(rows[TAGS_COLUMN], self._tags(run, rows, batch_size), strict=True):
            # Words that are cut off are not counted, as in training.
            kept = [place for place, tag in enumerate(read) if tag is not None]
            expected.append([names[tags[place]] for place in kept])
            found.append([str(read[place]) for place in kept])
        return Measured(entity_metrics(expected, found))

    def batches(self, run: LoadedRun, rows: Any, batch_size: int) -> Iterator[BatchEncoding]:
        """Yield words as inputs of the model."""
        tokenized = tokenize_tagged(rows, run.tokenizer, run.settings.data.max_length)
        yield from self._batches(run, tokenized, batch_size)

    def _batches(self, run: LoadedRun, tokenized: Any, batch_size: int) -> Iterator[BatchEncoding]:
        collate = DataCollatorForTokenClassification(run.tokenizer)
        unlabelled = [PIECES_COLUMN, *({"labels"} & set(tokenized.column_names))]
        yield from padded(run, tokenized.remove_columns(unlabelled), collate, batch_size)

    def _tags(self, run: LoadedRun, rows: Any, batch_size: int) -> list[list[str | None]]:
        """Return the tag of each word, None of those that the model was not shown."""
        tokenized = tokenize_tagged(rows, run.tokenizer, run.settings.data.max_length)
        names: list[str] = run.task["label_names"]
        chosen = [
            tags
            for logits in run.logits(self._batches(run, tokenized, batch_size))
            for tags in chosen_tags(logits).tolist()
        ]
        return [
            [None if piece == NO_PIECE else names[tags[piece]] for piece in pieces]
            for tags, pieces in zip(chosen, tokenized[PIECES_COLUMN], strict=True)
        ]

    def from_table(self, run: LoadedRun, table: DataTable) -> ToLabel:
        """Return the words of a table, written as the run's own rows were."""
        column, rows_of = run.task["text_columns"][0], run.task["rows_of"]
        rows = build_tagged(read_words(table, rows_of, column))
        texts = read_plain_texts(table, column) if rows_of == "spans" else None
        return ToLabel(table.records(), rows, texts)

    def from_text(self, run: LoadedRun, text: str, text_pair: str | None) -> ToLabel:
        """Return the words of a text."""
        if text_pair is not None:
            raise UserError("text_pair: the run tags the words of one text; leave it out.")
        words = [text[start:end] for start, end in words_of(text)]
        if not words:
            raise UserError(f"text: {text!r} has no word; write one at least.")
        return ToLabel([{"text": text}], build_tagged([words]), [text])

    def columns(self, run: LoadedRun, given: ToLabel, flat: bool) -> list[str]:
        """Return tags and entities, and the words where the row has a text."""
        return ["tags", "entities"] if given.texts is None else ["tokens", "tags", "entities"]

    def found(self, run: LoadedRun, given: ToLabel, batch_size: int, flat: bool) -> list[list[Any]]:
        """Return the tags of each row's words, and its entities."""
        read = self._tags(run, given.rows, batch_size)
        cut = sum(None in tags for tags in read)
        if cut:
            print(
                f"{cut:,} rows have words that the model was not shown, most likely after "
                f"max_length={run.settings.data.max_length} tokens; their tag is O.",
                file=sys.stderr,
            )
        texts = [None] * len(read) if given.texts is None else given.texts
        return [
            _cells(tokens, [tag or OUTSIDE for tag in tags], text)
            for tokens, tags, text in zip(given.rows[TOKENS_COLUMN], read, texts, strict=True)
        ]


def _cells(tokens: list[str], tags: list[str], text: str | None) -> list[Any]:
    if text is None:
        found = [_entity(span, " ".join(tokens[span.start : span.end])) for span in spans_of(tags)]
        return [tags, found]
    places = words_of(text)
    spans = [
        Span(places[span.start][0], places[span.end - 1][1], span.label) for span in spans_of(tags)
    ]
    return [tokens, tags, [_entity(span, text[span.start : span.end]) for span in spans]]


def _entity(span: Span, text: str) -> dict[str, Any]:
    return {"label": span.label, "text": text, "start": span.start, "end": span.end}
