-- A query of many words costs what its rarest words cost: before, each chunk with any word below the bound was ranked by each form of
-- each word, and a chunk's lexemes were read from their compressed place anew each time.
--
-- Candidates are the chunks that have one of the rarest words: words are taken up, the rarest first, as long as they are in no more
-- than `bound` / 2 chunks together, or in fewer than four times as many as are asked for. A chunk that has none of them would need
-- nearly all of the others to come before those. They are counted with all versions of a document. Where live ones turn out to be fewer
-- than are asked for, chunks with any word are candidates. Where rare words are in too few chunks, chunks with the rarest of the other words follow; where no
-- word is below the bound, those that have all words come first.
--
-- How many chunks of a large tenant have a frequent word is counted by the janitor now and then: counting it in each search takes
-- longer than all the rest. Words stand there as hashes, so that nothing of a deleted text can be read from them.
--
-- The ranking is as before (0013): BM25 (k1 = 1.2, b = 0.75), where the number of times n comes from ts_rank: its distance from 1, times
-- 1.644934, is 1/(n + 0.5), nearly. The terms are written out as SQL, a column for each word: that text holds numbers of this
-- function only, and the words come as parameters. `|| ''` reads a chunk's lexemes once into memory, OFFSET 0 keeps them there.
CREATE TABLE word_counts (
    tenant_id  text COLLATE "C" PRIMARY KEY REFERENCES tenants ON DELETE CASCADE,
    -- How many chunks there were.
    chunks     bigint NOT NULL,
    counted_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE frequent_words (
    tenant_id  text COLLATE "C" NOT NULL REFERENCES word_counts ON DELETE CASCADE,
    -- Of the lexeme in quotes, as `tsquery` shows it.
    word_hash  bigint NOT NULL,
    -- How many chunks have it, about.
    chunks     bigint NOT NULL,
    PRIMARY KEY (tenant_id, word_hash)
);
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['word_counts', 'frequent_words'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY tenant_only ON %I TO riacho_service USING (tenant_id = current_tenant())', name);
        EXECUTE format('CREATE POLICY all_tenants ON %I TO riacho_janitor USING (true)', name);
        EXECUTE format('GRANT SELECT ON %I TO riacho_service', name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO riacho_janitor', name);
    END LOOP;
END
$$;
CREATE POLICY all_tenants_read ON frequent_words FOR SELECT TO riacho_search USING (true);
GRANT SELECT ON frequent_words TO riacho_search;

DROP FUNCTION matching_chunks(tsquery[], tsquery[], integer[], uuid[], integer, integer);
CREATE FUNCTION matching_chunks(words tsquery[], forms tsquery[], form_words integer[], documents uuid[], bound integer, top integer)
    RETURNS TABLE (document_id uuid, version integer, run_id uuid, ordinal integer, score double precision)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp SET max_parallel_workers_per_gather = 0
AS $$
DECLARE
    tenant      text := current_tenant();
    found       record;
    counted     bigint := 0;
    every_word  tsquery;
    present     tsquery;
    some_word   tsquery;
    rare        tsquery;
    next_word   tsquery;
    chosen      tid[];
    candidates  text;
    weights     double precision[];
    ranks       text := '';
    terms       text := '0';
BEGIN
    IF tenant IS NULL OR coalesce(cardinality(words), 0) = 0 THEN
        RETURN;
    END IF;
    weights := array_fill(0::double precision, ARRAY[cardinality(words)]);
    FOR found IN EXECUTE
        'SELECT w.word, w.place, CASE
             WHEN known.chunks IS NULL THEN (SELECT count(*) FROM (SELECT FROM chunks AS c WHERE c.tenant_id = $1 AND c.tsv @@ w.word LIMIT $3) AS seen)
             ELSE greatest(known.chunks, $3) END AS frequency
         FROM unnest($2) WITH ORDINALITY AS w (word, place) CROSS JOIN LATERAL (
             SELECT max(q.chunks) AS chunks FROM unnest($4, $5) AS f (form, word)
             JOIN frequent_words AS q ON q.tenant_id = $1 AND q.word_hash = hashtextextended(f.form::text, 0) WHERE f.word = w.place) AS known
         ORDER BY frequency, place'
        USING tenant, words, bound, forms, form_words
    LOOP
        weights[found.place] := ln(1 + 4 * bound / (least(found.frequency, bound) + 0.5));
        every_word := CASE WHEN every_word IS NULL THEN found.word ELSE every_word && found.word END;
        CONTINUE WHEN found.frequency = 0;
        present := CASE WHEN present IS NULL THEN found.word ELSE present && found.word END;
        some_word := CASE WHEN some_word IS NULL THEN found.word ELSE some_word || found.word END;
        IF found.frequency < bound AND (counted + found.frequency <= bound / 2 OR counted < 4 * top) THEN
            rare := CASE WHEN rare IS NULL THEN found.word ELSE rare || found.word END;
            counted := counted + found.frequency;
        ELSE
            next_word := coalesce(next_word, found.word);
        END IF;
    END LOOP;
    IF some_word IS NULL THEN
        RETURN;
    END IF;
    IF rare IS NOT NULL AND counted >= 4 * top THEN
        next_word := NULL;
    END IF;
    -- Whether a chunk is live is looked up for each by its document's id: the planner would else choose, while it knows little of the
    -- tables, to go through all documents of the tenant for each chunk, or through all their chunks for a frequent word.
    candidates :=
        'SELECT array_agg(c.ctid) FROM (
            (SELECT c.ctid, c.document_id, c.version, c.run_id FROM chunks AS c
             WHERE c.tenant_id = $1 AND c.tsv @@ $3 AND ($2 IS NULL OR c.document_id = ANY ($2)) LIMIT $5 * 2)
            UNION ALL
            (SELECT c.ctid, c.document_id, c.version, c.run_id FROM chunks AS c
             WHERE $4 IS NOT NULL AND c.tenant_id = $1 AND c.tsv @@ $4 AND NOT c.tsv @@ $3
               AND ($2 IS NULL OR c.document_id = ANY ($2)) LIMIT $6)) AS c
         CROSS JOIN LATERAL (SELECT d.* FROM documents AS d WHERE d.id = c.document_id OFFSET 0) AS d
         WHERE d.live_version = c.version AND d.live_run = c.run_id
           AND d.tenant_id = $1 AND d.deleted_at IS NULL AND (d.expires_at IS NULL OR d.expires_at > now())';
    EXECUTE candidates INTO chosen USING tenant, documents, coalesce(rare, present), next_word, bound, bound / 2;
    IF coalesce(cardinality(chosen), 0) < top AND coalesce(rare, present) IS DISTINCT FROM some_word THEN
        EXECUTE candidates INTO chosen USING tenant, documents, coalesce(rare, present), some_word, bound * 3, bound * 3;
    END IF;
    FOR number IN 1 .. cardinality(words) LOOP
        ranks := ranks || format(', least(greatest(%s), 1)::double precision AS r%s',
            (SELECT string_agg(format('ts_rank(''{1,1,1,1}'', flat.tsv, ($4)[%s])', f.form), ', ')
             FROM unnest(form_words) WITH ORDINALITY AS f (word, form) WHERE f.word = number), number);
        terms := terms || format(' + CASE WHEN r%1$s > 0 THEN ($7)[%1$s] / (1 + c.longer / (1 / (1.644934 * (1.0001 - r%1$s)) - 0.5)) ELSE 0 END', number);
    END LOOP;
    RETURN QUERY EXECUTE format(
        'WITH candidates AS (
            SELECT c.document_id, c.version, c.run_id, c.ordinal, c.tsv, 1.2 * (0.25 + 0.75 * c.token_count / greatest(avg(c.token_count) OVER (), 1))::double precision AS longer
            FROM chunks AS c WHERE c.ctid = ANY ($1) AND c.tenant_id = $2)
        SELECT c.document_id, c.version, c.run_id, c.ordinal, (%s) / $5 + CASE WHEN flat.tsv @@ $3 THEN 0.45 ELSE 0 END AS score
        FROM candidates AS c CROSS JOIN LATERAL (SELECT c.tsv || '''' AS tsv OFFSET 0) AS flat
            CROSS JOIN LATERAL (SELECT %s OFFSET 0) AS ranked
        ORDER BY score DESC, c.document_id, c.ordinal
        LIMIT $6', terms, substr(ranks, 3))
        USING chosen, tenant, every_word, forms, (SELECT sum(weight) FROM unnest(weights) AS weight), top, weights;
END
$$;
REVOKE EXECUTE ON FUNCTION matching_chunks FROM PUBLIC;
GRANT EXECUTE ON FUNCTION matching_chunks TO riacho_service;
GRANT CREATE ON SCHEMA public TO riacho_search;
ALTER FUNCTION matching_chunks OWNER TO riacho_search;
REVOKE CREATE ON SCHEMA public FROM riacho_search;
