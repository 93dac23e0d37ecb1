"""Records → numbers. Pure: every figure of a report is computed here, from the rows of `requests.parquet`.

Definitions (docs/definitions.md has them for readers):
  TTFT                 first content chunk read − request sent
  TTFT from schedule   first content chunk read − the instant the arrival process scheduled the request
  chunk gap            between two content chunks of one request
  ITL                  a chunk's gap spread over the tokens that the chunk carries: one value per token
                       (for both, chunks that one read brought are one: they came at the same instant)
  TPOT                 (last − first chunk) / (output tokens after the first chunk): one value per request
  E2E                  response ended − request sent
  window               closed loop: all users are busy (see `window`); open loop: the scheduled time
Only requests with outcome `ok` enter latencies and token counts; the others are counted beside them. What cannot be
known is absent, with the reason in `absent`: a token figure where the server did not count every answer's tokens, a
goodput whose limit is on such a figure, and every rate of a cell in which nothing was answered.
"""
