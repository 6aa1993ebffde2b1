"""The settings of glibc, without changing them."""

import pytest

from lora2.support import heap


@pytest.fixture
def settings(monkeypatch):
    calls = []

    def mallopt(parameter, value):
        calls.append((parameter, value))
        return 1

    monkeypatch.setattr(heap, "_mallopt", lambda: mallopt)
    return calls


def test_freed_blocks_stay_in_the_heap(settings):
    assert heap.keep_freed_memory()
    # M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD of <malloc.h>.
    assert settings == [(-4, 0), (-1, 2**31 - 1), (-2, 64 * 1024 * 1024)]


def test_a_refusal_is_reported(monkeypatch):
    monkeypatch.setattr(heap, "_mallopt", lambda: lambda parameter, value: 0)
    assert not heap.keep_freed_memory()


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(heap, "_mallopt", lambda: None)
    assert not heap.keep_freed_memory()
