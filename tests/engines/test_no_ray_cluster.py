"""Where no Ray cluster answers, one sentence says so, and nothing is written."""

import pytest

from command_line import refused


@pytest.mark.engines
@pytest.mark.usefixtures("tiny_preset")
@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("auto", "Could not find any running Ray instance"),
        ("127.0.0.1:1", "Connection refused"),
        ("nonsense", "Invalid address format"),
    ],
)
def test_no_cluster_at_the_address_is_one_sentence(address, reason, tmp_path, monkeypatch, capsys):
    pytest.importorskip("ray", reason="`make test-engines` installs Ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    said = refused(
        capsys, "reproduce", "table1", f"--records={tmp_path / 'records'}",
        f"--work={tmp_path / 'work'}", "--launcher=ray", f"--ray_address={address}",
    )  # fmt: skip
    assert f"ray_address: no Ray cluster answers at {address} (" in said
    assert reason in said
    assert list(tmp_path.iterdir()) == []
