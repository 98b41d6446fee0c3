# One image, three entry points: `webserver` (default), `daemon`, `edge`.
FROM python:3.11-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends git && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/voice_pipeline
RUN python -m venv /opt/venv && /opt/venv/bin/pip install --no-cache-dir uv
COPY requirements.lock pyproject.toml README.md ./
RUN /opt/venv/bin/uv pip install --python /opt/venv/bin/python --no-cache -r requirements.lock
COPY voice_pipeline voice_pipeline
RUN /opt/venv/bin/uv pip install --python /opt/venv/bin/python --no-cache --no-deps --no-build-isolation -e .

FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends git libsndfile1 && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 voice && install -d -o voice -g voice /var/lib/voice_pipeline
COPY --from=build /opt/venv /opt/venv
WORKDIR /opt/voice_pipeline
COPY --from=build /opt/voice_pipeline ./
COPY dagster.yaml workspace.yaml data.dvc .dvcignore ./
COPY .dvc/config .dvc/config
COPY seed_remote seed_remote
COPY feature_repo feature_repo
COPY policy policy
COPY docker-entrypoint.sh /usr/local/bin/
ENV PATH=/opt/venv/bin:$PATH VOICE_PIPELINE_HOME=/var/lib/voice_pipeline PYTHONUNBUFFERED=1
VOLUME /var/lib/voice_pipeline
USER voice
EXPOSE 3000 8710
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["webserver"]
