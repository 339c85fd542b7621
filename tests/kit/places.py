"""Where the checkout and its folders are."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / 'docs'
SAMPLES = ROOT / 'sample_ini'
SITES = ROOT / 'tests' / 'sites'
