# Every command of the toolkit: docker build -f docker/train.Dockerfile -t cxr .
# docker run --rm --user "$(id -u):$(id -g)" -e HOME=/tmp -v "$PWD:/work" cxr reproduce quickstart
FROM python:3.12-slim
RUN pip install --no-cache-dir uv && useradd --create-home cxr
WORKDIR /opt/cxr
COPY pyproject.toml uv.lock README.md ./
COPY packages packages
# Compiled here: whoever runs the commands may not write beside them, and would compile torch at every start.
RUN uv sync --locked --no-dev --no-cache --compile-bytecode
ENV PATH=/opt/cxr/.venv/bin:$PATH
USER cxr
WORKDIR /work
CMD ["reproduce", "--help"]
