# Wholegrain on a CPU:   docker build -t wholegrain .
# on a CUDA machine:     docker build -t wholegrain --build-arg BASE=nvidia/cuda:12.8.1-runtime-ubuntu24.04 .   (run with --gpus all)
# then:                  docker run --rm -it -v "$PWD:/work" wholegrain demo --quick
ARG BASE=debian:bookworm-slim
FROM ${BASE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/wholegrain
ENV PATH=/opt/wholegrain/bin:$PATH PYTHONUNBUFFERED=1
COPY pyproject.toml README.md LICENSE /src/
COPY src /src/src
RUN pip install --no-cache-dir "/src[hf,onnx]" && rm -rf /src
WORKDIR /work
ENTRYPOINT ["wholegrain"]
CMD ["--help"]
