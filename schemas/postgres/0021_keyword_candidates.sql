-- A query of many words costs what its rarest words cost: before, each chunk with any word below the bound was ranked by each form of
-- each word, and a chunk's lexemes were read from their compressed place anew each time.
--
-- Candidates are the chunks that have one of the rarest words: words are taken up, the rarest first, as long as they are in no more
-- than `bound` / 2 chunks together, or in fewer than four times as many as are asked for. A chunk that has none of them would need
-- nearly all of the others to come before those. Where these are too few, or no word is below the bound, chunks with any word
-- follow, those that have all words first.
--
-- The ranking is as before (0013): BM25 (k1 = 1.2, b = 0.75), where the number of times n comes from ts_rank: its distance from 1, times
-- 1.644934, is 1/(n + 0.5), nearly. The terms are written out as SQL, a column for each word: that text holds numbers of this
-- function only, and the words come as parameters. `|| ''` reads a chunk's lexemes once into memory, OFFSET 0 keeps them there.
DROP FUNCTION matching_chunks(tsquery[], tsquery[], integer[], uuid[], integer, integer);
CREATE FUNCTION matching_chunks(words tsquery[], forms tsquery[], form_words integer[], documents uuid[], bound integer, top integer)
    RETURNS TABLE (document_id uuid, version integer, run_id uuid, ordinal integer, score double precision)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp
AS $$
DECLARE
    tenant      text := current_tenant();
    found       record;
    counted     bigint := 0;
    every_word  tsquery;
    some_word   tsquery;
    rare        tsquery;
    weights     double precision[];
    ranks       text := '';
    terms       text := '0';
BEGIN
    IF tenant IS NULL OR coalesce(cardinality(words), 0) = 0 THEN
        RETURN;
    END IF;
    weights := array_fill(0::double precision, ARRAY[cardinality(words)]);
    FOR found IN EXECUTE
        'SELECT w.word, w.place, (SELECT count(*) FROM (SELECT FROM chunks AS c WHERE c.tenant_id = $1 AND c.tsv @@ w.word LIMIT $3) AS seen) AS frequency
         FROM unnest($2) WITH ORDINALITY AS w (word, place) ORDER BY frequency, place'
        USING tenant, words, bound
    LOOP
        weights[found.place] := ln(1 + 4 * bound / (found.frequency + 0.5));
        every_word := CASE WHEN every_word IS NULL THEN found.word ELSE every_word && found.word END;
        some_word := CASE WHEN some_word IS NULL THEN found.word ELSE some_word || found.word END;
        IF found.frequency BETWEEN 1 AND bound - 1 AND (counted + found.frequency <= bound / 2 OR counted < 4 * top) THEN
            rare := CASE WHEN rare IS NULL THEN found.word ELSE rare || found.word END;
            counted := counted + found.frequency;
        END IF;
    END LOOP;
    FOR number IN 1 .. cardinality(words) LOOP
        ranks := ranks || format(', least(greatest(%s), 1)::double precision AS r%s',
            (SELECT string_agg(format('ts_rank(''{1,1,1,1}'', flat.tsv, ($8)[%s])', f.form), ', ')
             FROM unnest(form_words) WITH ORDINALITY AS f (word, form) WHERE f.word = number), number);
        terms := terms || format(' + CASE WHEN r%1$s > 0 THEN ($7)[%1$s] / (1 + c.longer / (1 / (1.644934 * (1.0001 - r%1$s)) - 0.5)) ELSE 0 END', number);
    END LOOP;
    RETURN QUERY EXECUTE format(
        'WITH matching AS (
            (SELECT c.document_id, c.version, c.run_id, c.ordinal, c.tsv, c.token_count
             FROM chunks AS c JOIN documents AS d ON d.id = c.document_id AND d.live_version = c.version AND d.live_run = c.run_id
             WHERE c.tenant_id = $1 AND d.tenant_id = $1 AND c.tsv @@ $4
               AND d.deleted_at IS NULL AND (d.expires_at IS NULL OR d.expires_at > now())
               AND ($2 IS NULL OR c.document_id = ANY ($2))
             LIMIT $10 * 2)
            UNION ALL
            (SELECT c.document_id, c.version, c.run_id, c.ordinal, c.tsv, c.token_count
             FROM chunks AS c JOIN documents AS d ON d.id = c.document_id AND d.live_version = c.version AND d.live_run = c.run_id
             WHERE $11 AND c.tenant_id = $1 AND d.tenant_id = $1 AND c.tsv @@ $5 AND NOT c.tsv @@ $4
               AND d.deleted_at IS NULL AND (d.expires_at IS NULL OR d.expires_at > now())
               AND ($2 IS NULL OR c.document_id = ANY ($2))
             LIMIT $10)),
        candidates AS (
            SELECT m.*, 1.2 * (0.25 + 0.75 * m.token_count / greatest(avg(m.token_count) OVER (), 1))::double precision AS longer FROM matching AS m)
        SELECT c.document_id, c.version, c.run_id, c.ordinal, (%s) / $9 + CASE WHEN flat.tsv @@ $3 THEN 0.45 ELSE 0 END AS score
        FROM candidates AS c CROSS JOIN LATERAL (SELECT c.tsv || '''' AS tsv OFFSET 0) AS flat
            CROSS JOIN LATERAL (SELECT %s OFFSET 0) AS ranked
        ORDER BY score DESC, c.document_id, c.ordinal
        LIMIT $6', terms, substr(ranks, 3))
        USING tenant, documents, every_word, coalesce(rare, every_word), some_word, top, weights, forms,
            (SELECT sum(weight) FROM unnest(weights) AS weight), bound, documents IS NOT NULL OR rare IS NULL OR counted < 4 * top;
END
$$;
REVOKE EXECUTE ON FUNCTION matching_chunks FROM PUBLIC;
GRANT EXECUTE ON FUNCTION matching_chunks TO riacho_service;
GRANT CREATE ON SCHEMA public TO riacho_search;
ALTER FUNCTION matching_chunks OWNER TO riacho_search;
REVOKE CREATE ON SCHEMA public FROM riacho_search;
