"""The README's programs run as they are written, one after the other."""

import pathlib
import re

import pytest

README = pathlib.Path(__file__).parents[1] / "README.md"


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
@pytest.mark.filterwarnings("ignore:Pareto k too large")  # as it should be after 20 epochs
def test_the_python_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    assert len(blocks) >= 3
    scope = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"README block {number}", "exec"), scope)
    assert [path.name for path in tmp_path.iterdir()] == ["digits.png"]
    assert {finding.tone for finding in scope["report"].findings()} == {"good"}  # as the README says
    assert "not told apart" in scope["result"].lead()


def test_the_first_program_is_short():
    first = re.search(r"```python\n(.*?)```", README.read_text(), re.S).group(1)
    assert len(first.strip().splitlines()) <= 16


@pytest.mark.parametrize("marker", ["train command", "test command"])
def test_the_two_commands_are_one_line_each_and_name_the_torch_build(marker):
    command = re.search(rf"<!-- {marker} -->\n```bash\n(.*?)```", README.read_text(), re.S).group(1)
    assert command.count("\n") == 1
    assert "torch==2.13.0" in command


def test_every_file_that_the_readme_points_to_is_there():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text()):
        assert (README.parent / target).exists(), target
