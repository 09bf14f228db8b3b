"""The papers' experiments, data sets, analyses and figures, and the command `evomal`."""

from importlib.util import find_spec

for _name in ("matplotlib", "pandas", "papermill", "scipy", "seaborn", "sklearn", "torchvision"):
    if find_spec(_name) is None:
        raise ModuleNotFoundError(f"the papers' experiments need {_name}: pip install 'evomal[paper]'", name=_name)
