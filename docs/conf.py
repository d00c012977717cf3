"""Sphinx configuration: ``sphinx-build -W --keep-going -b html docs docs/_build/html``."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]  # a checkout needs no installation

import linalgkit  # noqa: E402

project = "linalgkit"
author = "The linalgkit developers"
copyright = author
release = version = linalgkit.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "generated_pages",  # docs/_ext: capability table, performance tables
]
exclude_patterns = ["_build", "_ext", "_generated"]
templates_path = ["_templates"]
default_role = "py:obj"

autodoc_typehints = "none"  # the docstrings say more
autosummary_generate = True
numpydoc_show_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    # Only plot_*.py is run and shown; the scripts read LINALGKIT_EXAMPLE_SIZE themselves.
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"(^|/)(?!plot_)[^/]*\.py$",
    "reset_modules": ("matplotlib", "generated_pages.reset_process"),
    "backreferences_dir": "_generated/backreferences",
    "doc_module": ("linalgkit",),
    "reference_url": {"linalgkit": None},
    "image_srcset": ["2x"],
    "capture_repr": (),
    "remove_config_comments": True,
    "show_memory": False,
    "show_signature": False,
    "download_all_examples": False,
    "write_computation_times": False,
}

html_theme = "pydata_sphinx_theme"
html_title = "linalgkit"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "linalgkit"},
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc", "sg_download_links"],
    "show_prev_next": False,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
}
# Pages without pages below them have nothing to list beside the text.
html_sidebars = {page: [] for page in ("index", "performance", "design")}
