"""Chooses the newest versions that the environments may have: `make pins` (it needs uv)."""

import os
import subprocess
import sys

from tests.environments import PINS, RECIPES, ROOT, pins

OPTIONS = (
    '--quiet --universal --python-version 3.11 --upgrade --no-annotate --no-header'
)

uv = os.path.join(sys.prefix, 'bin', 'uv')
PINS.mkdir(exist_ok=True)
for name, recipe in RECIPES.items():
    compiled = [uv, 'pip', 'compile', *OPTIONS.split(), 'setup.cfg', '-']
    asked = '\n'.join([*recipe.requirements, *recipe.by_script])
    compiled += ['--output-file', str(pins(name))]
    subprocess.run(compiled, input=asked, text=True, cwd=ROOT, check=True)
