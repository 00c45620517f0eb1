-- One row per variant for one stage: its units. Outcomes do not matter for the sample ratio.
-- Leave out people who were put into a variant by hand: AND user_id NOT IN (…)
WITH first_exposures AS (
  SELECT user_id, MIN(exposed_at) AS first_at, MIN_BY(variant, exposed_at) AS variant
  FROM exposures
  WHERE flag_key = %(key)s AND exposed_at < %(stage_end)s::TIMESTAMP_TZ
  GROUP BY user_id
)
SELECT variant, COUNT(*) AS n, (SELECT complete_until FROM loads WHERE source = 'exposures') AS as_of
FROM first_exposures
WHERE first_at >= %(stage_start)s::TIMESTAMP_TZ
GROUP BY variant
