"""What the pages link to outside of `docs/`, such as notebooks, becomes a part of the site."""

import re
from pathlib import Path

from mkdocs.structure.files import File

OUTSIDE = re.compile(r"\]\(\.\./([^)#]+)")


def on_files(files, config):
    """Add the files that pages link to as `../path`."""
    root = Path(config.config_file_path).parent
    texts = [file.content_string for file in files.documentation_pages()]
    for path in sorted({path for text in texts for path in OUTSIDE.findall(text)}):
        if not (root / path).is_file():
            raise FileNotFoundError(f"a page links to {path}, which is not there")
        # a README would be made into a page, whose own links lead elsewhere
        name = path.replace(".md", ".txt")
        files.append(File.generated(config, f"files/{name}", abs_src_path=str(root / path)))
    return files


def on_page_markdown(markdown, **_):
    """Lead `../path` to the files that were added."""
    return OUTSIDE.sub(lambda found: "](files/" + found[1].replace(".md", ".txt"), markdown)
