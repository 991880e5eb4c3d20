"""Every block of the documentation is what it says: commands, settings, code."""

import ast
import json
import tomllib

import documented
import pytest
import yaml

from pipelines.workspace.settings_file import Settings

READ = {
    "toml": lambda text: Settings.model_validate(tomllib.loads(text)),
    "yaml": yaml.safe_load,
    "json": json.loads,
    "python": ast.parse,
}
# Read by programs that are not here; `text` by people.
NOT_READ = {"text", "nginx"}


def faults(text: str) -> list[str]:
    """Say which commands and blocks of a page are not what they should be."""
    found = []
    for block in documented.blocks(text):
        if not block.language:
            for arguments in documented.btx_commands(block.text):
                try:
                    documented.parse(arguments)
                except Exception as error:
                    found.append(f"btx {' '.join(arguments)}: {error}")
        elif block.language not in NOT_READ:
            try:
                READ[block.language](block.text)
            except Exception as error:
                found.append(f"{block.language} block: {error!r}")
    return found


@pytest.mark.parametrize("page", documented.pages())
def test_every_block_of_a_page_is_read_by_what_it_is_for(page: str) -> None:
    assert faults((documented.ROOT / page).read_text()) == []


@pytest.mark.parametrize(
    "block",
    [
        "```\nbtx rebuild --no-such-option\n```",
        "```\ncd x && btx no-such-command\n```",
        "```\nbtx data add \\\n    --license MIT\n```",
        "1. a list\n\n    ```\n    btx register legal\n    ```",
        "```toml\n[machine]\ngpu = 1\n```",
        "```yaml\na: [\n```",
        "```python\nimport\n```",
        "```cobol\nDISPLAY\n```",
    ],
)
def test_a_block_that_would_not_work_is_noticed(block: str) -> None:
    assert len(faults(block)) == 1


def test_a_block_runs_unless_a_line_above_it_says_why_not() -> None:
    text = "```\nbtx audit\n```\n\n<!-- not run: needs a bucket -->\n```\ndvc push\n```\n"
    assert [block.runs for block in documented.blocks(text)] == [True, False]
    assert list(documented.btx_commands("A=1 btx audit  # why\necho x | .venv/bin/btx due")) == [
        ["audit"],
        ["due"],
    ]
