FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY mcpsession mcpsession
COPY migrations migrations
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir /wheels/*.whl \
    && useradd --system --uid 10001 --no-create-home replica
# Only the example: the package's own source would stand before the installed one.
WORKDIR /app
COPY examples/__init__.py examples/orders.py examples/
USER 10001
EXPOSE 8000
# The layer drains for 25 s at SIGTERM; the server must outlast it.
CMD ["uvicorn", "examples.orders:app", "--host", "0.0.0.0", "--port", "8000", "--no-access-log", \
     "--timeout-keep-alive", "75", "--timeout-graceful-shutdown", "30"]
