# What ships and nothing else: Python, the runtime with its three dependencies, and one bundle. No PyTorch, no compiler.
#
#   torchless export CHECKPOINT bundle
#   docker build --build-arg BUNDLE=bundle -t classifier .
#   echo "What a fine film." | docker run --rm -i --read-only --network none classifier
#
# BUNDLE is a path within the directory that is built from. `make image` takes the same steps where no engine is.
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY requirements requirements
COPY runtime runtime
COPY export export
COPY bench bench
RUN python -m venv /opt/torchless
RUN /opt/torchless/bin/python -m pip install --no-cache-dir --quiet --require-hashes -r requirements/runtime.txt
RUN /opt/torchless/bin/python -m pip install --no-cache-dir --quiet --no-deps .
RUN /opt/torchless/bin/python -m pip uninstall --quiet --yes pip setuptools

FROM python:3.11-slim
ARG BUNDLE=bundle
COPY --from=build /opt/torchless /opt/torchless
COPY --chmod=0555 ${BUNDLE} /bundle
ENV PATH=/opt/torchless/bin:$PATH PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1
USER 10001:10001
ENTRYPOINT ["torchless"]
CMD ["run", "/bundle", "--input", "-"]
