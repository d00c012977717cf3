"""What `show_config` tells, and that nobody is sent to the wrong distribution."""

import platform
import re
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info

import linalgkit
from linalgkit import _config

ROOT = Path(__file__).parents[1]


@pytest.fixture
def report(capsys):
    def printed():
        with linalgkit.use_engine(None):
            linalgkit.show_config()
        return capsys.readouterr().out

    return printed


def line(text, start):
    (found,) = [line for line in text.splitlines() if line.startswith(start)]
    return found


def test_versions(report):
    first = line(report(), "linalgkit ")
    assert first.startswith(
        f"linalgkit {linalgkit.__version__} (distribution linalgkit-structured)"
    )
    assert f"Python {platform.python_version()}" in first


def test_packages_are_installed_or_missing(report, monkeypatch):
    monkeypatch.setattr(_config, "_PACKAGES", (*_config._PACKAGES, "no-such-distribution"))
    text = report()
    installed, missing = line(text, "packages: "), line(text, "missing: ")
    assert f"numpy {np.__version__}" in installed
    assert "no-such-distribution" in missing.removeprefix("missing:").replace(" ", "").split(",")
    assert "no-such-distribution" not in installed
    assert "numpy" not in missing


def test_engines(report, monkeypatch):
    assert line(report(), "engines: ").startswith("engines:  array_api, numba")
    monkeypatch.setattr(_config, "find_spec", lambda name: None)
    assert line(report(), "engines: ").startswith("engines:  array_api; ")
    monkeypatch.setattr(_config, "find_spec", lambda name: object())
    assert line(report(), "engines: ").startswith("engines:  array_api, numba, cupy, dask; ")


def test_wishes(capsys, report):
    assert "asked for: none" in line(report(), "engines: ")
    with linalgkit.use_engine("array_api"), linalgkit.use_workers(5):
        linalgkit.show_config()
    text = capsys.readouterr().out
    assert line(text, "engines: ").endswith("asked for: array_api")
    assert line(text, "threads: ").startswith("threads:  5 workers, ")


def test_blas(report):
    rows = [line for line in report().splitlines() if line.startswith("BLAS: ")]
    pools = threadpool_info()
    assert len(rows) == len(pools) > 0
    for row, pool in zip(rows, pools, strict=True):
        assert f"{pool['internal_api']} {pool['version']}" in row
        assert f"{pool['num_threads']} threads" in row


def install(folder, name, version):
    """Put the metadata of a distribution into a folder, as pip leaves it."""
    metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_foreign_distribution(report, tmp_path, monkeypatch):
    install(tmp_path, "linalgkit", "9.8.7")
    monkeypatch.syspath_prepend(tmp_path)
    warning = line(report(), "WARNING: ")
    assert "'linalgkit' 9.8.7 is another project" in warning
    assert "reinstall linalgkit-structured" in warning


def test_own_distribution_is_not_foreign(report, tmp_path, monkeypatch):
    install(tmp_path, "linalgkit-structured", linalgkit.__version__)
    monkeypatch.syspath_prepend(tmp_path)
    assert "WARNING" not in report()


# Options and quotes may stand before the name; an extra or a version behind it.
WRONG_NAME = re.compile(r"pip3? install\s+(?:-\S+\s+)*[\"'`]?linalgkit(?![\w-])")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("pip install linalgkit", True),
        ("pip install 'linalgkit[gpu]'", True),
        ("python -m pip install -U --pre linalgkit==0.1", True),
        ("pip install linalgkit\n-structured", True),
        ("pip install linalgkit-structured", False),
        ('pip install "linalgkit-structured[torch]"', False),
        ("pip install -e .", False),
    ],
)
def test_wrong_name_is_seen(text, wrong):
    assert bool(WRONG_NAME.search(text)) == wrong


def pages():
    folders = ("docs", "examples", "linalgkit", "asv_bench")
    suffixes = (".md", ".rst", ".py", ".pyi", ".txt", ".toml", ".ipynb")
    found = [path for name in folders for path in (ROOT / name).rglob("*")]
    found += [*ROOT.glob("*.md"), ROOT / "pyproject.toml"]
    return [path for path in found if path.suffix in suffixes and path.is_file()]


def test_no_page_names_the_wrong_distribution():
    read = {path: path.read_text(encoding="utf-8") for path in pages()}
    assert ROOT / "linalgkit/_engine.py" in read
    wrong = [str(path.relative_to(ROOT)) for path, text in read.items() if WRONG_NAME.search(text)]
    assert wrong == []
