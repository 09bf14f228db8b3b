# JupyterLab with the notebooks, on http://localhost:8888 (the address with its token is printed):
#   docker build -t evomal .
#   docker run --rm -p 8888:8888 -v "$PWD/results:/home/evomal/evomal/results" evomal
# The experiments:
#   docker run --rm -v "$PWD/results:/home/evomal/evomal/results" evomal make reproduce
# If your user id is not 1000, build with --build-arg UID="$(id -u)" so that results/ can be written.
FROM python:3.11.13-slim-bookworm

RUN apt-get update \
    && apt-get install --no-install-recommends -y make=4.3-4.1 \
    && rm -rf /var/lib/apt/lists/*

ARG UID=1000
RUN useradd --create-home --uid "$UID" evomal \
    && install -d -o "$UID" /home/evomal/evomal
USER $UID
WORKDIR /home/evomal/evomal

# The CPU build of torch; leave the line out for CUDA.
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu \
    PIP_NO_CACHE_DIR=1

# The packages before the sources, so that an edit does not install them anew: make install is
# pip install -c constraints.txt into .venv.
COPY --chown=evomal Makefile pyproject.toml constraints.txt README.md LICENSE ./
COPY --chown=evomal evomal_core/__init__.py evomal_core/
COPY --chown=evomal evomal_paper/__init__.py evomal_paper/
RUN make install

COPY --chown=evomal . .
ENV PATH="/home/evomal/evomal/.venv/bin:$PATH"

EXPOSE 8888
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--port=8888", "--no-browser"]
