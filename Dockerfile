# A GPU host's image: the steps of the Makefile, with the CUDA build of torch that the same pin gives elsewhere.
#   docker build -t rllib_tag . && docker run --gpus all --shm-size 4g rllib_tag train file experiments/tag_ppo_gpu.yaml
FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends make=4.* wget=1.* \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 tag \
    && ln -s /home/tag/rllib_tag/.venv/bin/ray /home/tag/rllib_tag/.venv/bin/rllib /usr/local/bin/

USER tag
WORKDIR /home/tag/rllib_tag
COPY --chown=tag:tag . .
# Jobs are submitted to a cluster through Ray's dashboard.
RUN make install && .venv/bin/pip install --quiet --editable ".[cluster]"

ENV PATH=/home/tag/rllib_tag/.venv/bin:$PATH
ENTRYPOINT ["rllib"]
CMD ["--help"]
