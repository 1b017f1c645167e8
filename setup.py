"""No package is built: a Snakemake workflow runs from its checkout, with YAML, captions and rules beside the code."""

from setuptools import Command, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.sdist import sdist


def refuse(command: Command) -> None:
    """End with what to do instead."""
    raise SystemExit("error: this project runs from its checkout: clone it, then pip install --editable .")


setup(
    cmdclass={command.__name__: type(command.__name__, (command,), {"run": refuse}) for command in (bdist_wheel, sdist)}
)
