-- One row per variant for one stage: its units, and how many of them ordered within the window.
-- This is the query for Snowflake of docs/guardrails.md, where the tables and columns are explained.
WITH complete AS (
  SELECT MIN(complete_until) AS as_of FROM loads WHERE source IN ('exposures', 'orders')
),
first_exposures AS (
  SELECT user_id, MIN(exposed_at) AS first_at, MIN_BY(variant, exposed_at) AS variant
  FROM exposures
  WHERE flag_key = %(key)s AND exposed_at < %(stage_end)s::TIMESTAMP_TZ
  GROUP BY user_id
),
units AS (
  SELECT f.user_id, f.variant, c.as_of, MAX(CASE WHEN o.user_id IS NULL THEN 0 ELSE 1 END) AS y
  FROM first_exposures f
  CROSS JOIN complete c
  LEFT JOIN orders o
    ON o.user_id = f.user_id
    AND o.ordered_at >= f.first_at
    AND o.ordered_at < DATEADD(second, %(window)s, f.first_at)
  WHERE f.first_at >= %(stage_start)s::TIMESTAMP_TZ
    AND DATEADD(second, %(window)s, f.first_at) <= c.as_of
  GROUP BY f.user_id, f.variant, c.as_of
)
SELECT variant, COUNT(*) AS n, SUM(y) AS sum, MIN(as_of) AS as_of
FROM units
GROUP BY variant
