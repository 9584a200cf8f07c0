-- The ranking of the keyword search is BM25 (Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework", with the usual
-- k1 = 1.2 and b = 0.75): how often a word stands in a chunk counts less the longer the chunk is, which ts_rank leaves out.
--
-- How often is read from ts_rank, because it is the only function in C that looks at places: for one lexeme it is the sum of
-- 1/j^2 for j up to their number, over 1.644934 (pi^2/6), and what is missing of the whole is 1/(number + 0.5), nearly.
--
-- `words` has one query for each word; `forms` has each form of each word by itself, and `form_words` the word of each form. Of a
-- word's forms the most frequent counts: a text may have each occurrence of a word under several.
--
-- The score is the part of the most that the words could give: it says how well they match, whatever their number and rareness,
-- and can be added to other scores. Chunks that have all words come first. Everything else is as before.
DROP FUNCTION matching_chunks(tsquery[], uuid[], integer, integer);
CREATE FUNCTION matching_chunks(words tsquery[], forms tsquery[], form_words integer[], documents uuid[], bound integer, top integer)
    RETURNS TABLE (document_id uuid, version integer, run_id uuid, ordinal integer, score double precision)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp
AS $$
DECLARE
    tenant      text := current_tenant();
    every_word  tsquery;
    word        tsquery;
    frequency   bigint;
    weights     double precision[] := '{}';
    rare        tsquery;
    some_word   tsquery;
BEGIN
    IF tenant IS NULL OR coalesce(cardinality(words), 0) = 0 THEN
        RETURN;
    END IF;
    FOREACH word IN ARRAY words LOOP
        EXECUTE 'SELECT count(*) FROM (SELECT FROM chunks WHERE tenant_id = $1 AND tsv @@ $2 LIMIT $3) AS found'
            INTO frequency USING tenant, word, bound;
        weights := weights || ln(1 + 4 * bound / (frequency + 0.5));
        every_word := CASE WHEN every_word IS NULL THEN word ELSE every_word && word END;
        some_word := CASE WHEN some_word IS NULL THEN word ELSE some_word || word END;
        IF frequency > 0 AND frequency < bound THEN
            rare := CASE WHEN rare IS NULL THEN word ELSE rare || word END;
        END IF;
    END LOOP;
    RETURN QUERY EXECUTE
        'WITH matching AS (
            (SELECT c.document_id, c.version, c.run_id, c.ordinal, c.tsv, c.token_count
             FROM chunks AS c JOIN documents AS d ON d.id = c.document_id AND d.live_version = c.version AND d.live_run = c.run_id
             WHERE c.tenant_id = $1 AND d.tenant_id = $1 AND c.tsv @@ $3
               AND d.deleted_at IS NULL AND (d.expires_at IS NULL OR d.expires_at > now())
               AND ($2 IS NULL OR c.document_id = ANY ($2))
             LIMIT $6)
            UNION
            (SELECT c.document_id, c.version, c.run_id, c.ordinal, c.tsv, c.token_count
             FROM chunks AS c JOIN documents AS d ON d.id = c.document_id AND d.live_version = c.version AND d.live_run = c.run_id
             WHERE c.tenant_id = $1 AND d.tenant_id = $1 AND c.tsv @@ $4
               AND d.deleted_at IS NULL AND (d.expires_at IS NULL OR d.expires_at > now())
               AND ($2 IS NULL OR c.document_id = ANY ($2))
             LIMIT $6 * 2)),
        candidates AS (
            SELECT m.*, 1.2 * (0.25 + 0.75 * m.token_count / greatest(avg(m.token_count) OVER (), 1)) AS longer FROM matching AS m),
        terms AS (
            SELECT f.form, f.word, w.weight
            FROM unnest($9, $10) AS f (form, word) JOIN unnest($8) WITH ORDINALITY AS w (weight, word) ON w.word = f.word)
        SELECT c.document_id, c.version, c.run_id, c.ordinal, ranked.score
        FROM candidates AS c CROSS JOIN LATERAL (
            SELECT sum(word.weight * word.times / (word.times + c.longer)) / $11
                + CASE WHEN c.tsv @@ $3 THEN 0.45 ELSE 0 END AS score
            FROM (SELECT t.weight, max(1 / (1.644934 * (1.0001 - seen.rank)) - 0.5) FILTER (WHERE seen.rank > 0) AS times
                  FROM terms AS t CROSS JOIN LATERAL (SELECT least(ts_rank(''{1,1,1,1}'', c.tsv, t.form), 1.0) AS rank) AS seen
                  GROUP BY t.word, t.weight) AS word) AS ranked
        ORDER BY ranked.score DESC, c.document_id, c.ordinal
        LIMIT $7'
        USING tenant, documents, every_word, coalesce(rare, some_word), words, bound, top, weights, forms, form_words,
            (SELECT sum(weight) FROM unnest(weights) AS weight);
END
$$;
REVOKE EXECUTE ON FUNCTION matching_chunks FROM PUBLIC;
GRANT EXECUTE ON FUNCTION matching_chunks TO riacho_service;
GRANT CREATE ON SCHEMA public TO riacho_search;
ALTER FUNCTION matching_chunks OWNER TO riacho_search;
REVOKE CREATE ON SCHEMA public FROM riacho_search;
