# Answers for new images without PyTorch: docker build -f docker/deploy.Dockerfile -t cxr-deploy .
# docker run --rm --network none -v "$PWD:/work:ro" cxr-deploy predict model.onnx IMAGES
FROM python:3.12-slim
COPY packages/data /src/data
COPY packages/deploy /src/deploy
RUN pip install --no-cache-dir /src/data /src/deploy && rm -r /src && useradd --create-home cxr
USER cxr
WORKDIR /work
CMD ["predict", "--help"]
