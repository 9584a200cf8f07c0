-- Text search. People leave accents out, stemmers need them (informação and informar share a stem only
-- with them). So a text is indexed under the stems of its unaccented words, with positions, and under
-- the unaccented stems of its words as they are; a query looks for either.
--
-- The Portuguese stemmer keeps many plurals of words in -ão apart; without accents they all end in -oes.
CREATE FUNCTION folded(config regconfig, body text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN config = 'pg_catalog.portuguese'::regconfig
        THEN regexp_replace(public.unaccent('public.unaccent'::regdictionary, body), 'oes\M', 'ao', 'gi')
        WHEN octet_length(body) = length(body) THEN body
        ELSE public.unaccent('public.unaccent'::regdictionary, body)
        END;
-- Stemming costs most, so the second time is left out for texts without Latin or Greek letters beyond
-- ASCII; dashes and quotation marks alone do not count.
CREATE FUNCTION searchable(config regconfig, body text) RETURNS tsvector
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN octet_length(body) = length(body) OR body !~ '[\u00C0-\u03FF]'
        THEN to_tsvector(config, folded(config, body))
        ELSE to_tsvector(config, folded(config, body))
            || array_to_tsvector(ARRAY(
                SELECT stem
                FROM unnest(tsvector_to_array(to_tsvector(config, body))) AS lexeme,
                    LATERAL (SELECT CASE WHEN octet_length(lexeme) = length(lexeme) THEN lexeme
                        ELSE public.unaccent('public.unaccent'::regdictionary, lexeme) END AS stem) AS folded
                WHERE stem <> ''))
        END;

-- Stop words that a stemmer knows only with their accents, without them. A query leaves them out.
CREATE TABLE folded_stop_words (
    config  text COLLATE "C" NOT NULL,
    word    text NOT NULL,
    PRIMARY KEY (config, word)
);
INSERT INTO folded_stop_words
SELECT DISTINCT config, unaccent(word)
FROM (VALUES
    ('portuguese', 'até estivéramos estivéssemos está estávamos estão fôramos fôssemos houverá houverão
        houveríamos houvéramos houvéssemos há hão já não nós será serão seríamos são só também terá
        terão teríamos tivéramos tivéssemos tém tínhamos você vocês à às éramos'),
    ('spanish', 'estará estarán estarás estaré estaréis estaría estaríais estaríamos estarían estarías
        estuviéramos estuviésemos está estábamos estáis están estás esté estéis estén estés fuéramos
        fuésemos habrá habrán habrás habré habréis habría habríais habríamos habrían habrías habéis
        había habíais habíamos habían habías hayáis hubiéramos hubiésemos más mí mía mías mío míos
        qué será serán serás seré seréis sería seríais seríamos serían serías seáis sí también
        tendrá tendrán tendrás tendré tendréis tendría tendríais tendríamos tendrían tendrías
        tengáis tenéis tenía teníais teníamos tenían tenías tuviéramos tuviésemos tú él éramos'),
    ('french', 'eûmes eût eûtes fûmes fût fûtes même à étaient étais était étant étante étantes étants étiez
        étions été étée étées étés êtes'),
    ('italian', 'avrà avrò farà farò perché più sarà sarò starà starò è'),
    ('german', 'daß für können könnte während würde würden über'),
    ('danish', 'når også på sådan være været'),
    ('swedish', 'där då från för här när någon något några på själv så sådan sådana sådant varför vår våra
        vårt än är åt över'),
    ('norwegian', 'både båe då før hjå nå når også på sjøl så sånn vår være vært å'),
    ('finnish', 'eivät että heidän heidät heillä heiltä heissä heistä heitä hän häneen hänelle hänellä
        häneltä hänen hänessä hänestä hänet häntä keillä keiltä keinä keissä keistä keitä kenellä
        keneltä kenenä kenessä kenestä ketkä ketä meidän meidät meillä meiltä meissä meistä meitä
        mikä millä miltä minkä minä missä mistä mitkä mitä niillä niiltä niinä niissä niistä niitä
        näiden näihin näiksi näille näillä näiltä näinä näissä näistä näitä nämä sekä siinä siitä
        sillä siltä sinä sitä tallä teidän teidät teillä teiltä teissä teistä teitä tuotä tähän
        täksi tälle tältä tämä tämän tänä tässä tästä tätä'),
    ('hungarian', 'amíg arról aztán azután azért belül bár egyéb egész első elég elő először előtt ezért felé
        ismét jó jól keressünk keresztül kívül között közül legalább magát miért már más másik még
        míg néha néhány nélkül rá saját számára talán tehát tovább továbbá több utolsó után utána
        való által általában át én éppen és így össze úgy új újabb újra ő ők őket'),
    ('turkish', 'aslında bazı birkaç birşey eğer hiç için mü mı nasıl niçin tüm çok çünkü şey şu')
) AS stop_words (config, words), regexp_split_to_table(words, '\s+') AS word;

-- The live chunks of the current tenant that match the words of a query, the best first. `words` has
-- one query for each word; `documents` limits the answer to these, null does not.
--
-- It runs as riacho_search, which sees all tenants, and compares the tenant itself: under a policy
-- the planner may not use the text index, because the match operator is not leakproof.
--
-- The cost is bounded: a word that is in more than `bound` chunks brings only `bound` of them, those
-- that have all words first, so the rarest words decide which chunks are ranked.
CREATE FUNCTION matching_chunks(words tsquery[], documents uuid[], bound integer, top integer)
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
        'WITH candidates AS (
            (SELECT c.document_id, c.version, c.run_id, c.ordinal, c.tsv
             FROM chunks AS c JOIN documents AS d ON d.id = c.document_id AND d.live_version = c.version AND d.live_run = c.run_id
             WHERE c.tenant_id = $1 AND d.tenant_id = $1 AND c.tsv @@ $3
               AND d.deleted_at IS NULL AND (d.expires_at IS NULL OR d.expires_at > now())
               AND ($2 IS NULL OR c.document_id = ANY ($2))
             LIMIT $6)
            UNION
            (SELECT c.document_id, c.version, c.run_id, c.ordinal, c.tsv
             FROM chunks AS c JOIN documents AS d ON d.id = c.document_id AND d.live_version = c.version AND d.live_run = c.run_id
             WHERE c.tenant_id = $1 AND d.tenant_id = $1 AND c.tsv @@ $4
               AND d.deleted_at IS NULL AND (d.expires_at IS NULL OR d.expires_at > now())
               AND ($2 IS NULL OR c.document_id = ANY ($2))
             LIMIT $6 * 2))
        SELECT c.document_id, c.version, c.run_id, c.ordinal, ranked.score
        FROM candidates AS c CROSS JOIN LATERAL (
            SELECT sum(weight * ts_rank(''{1,1,1,1}'', c.tsv, word))
                + CASE WHEN c.tsv @@ $3 THEN sum(weight) ELSE 0 END AS score
            FROM unnest($5, $8) AS terms (word, weight)) AS ranked
        ORDER BY ranked.score DESC, c.document_id, c.ordinal
        LIMIT $7'
        USING tenant, documents, every_word, coalesce(rare, some_word), words, bound, top, weights;
END
$$;
REVOKE EXECUTE ON FUNCTION matching_chunks FROM PUBLIC;
GRANT EXECUTE ON FUNCTION matching_chunks TO riacho_service;
GRANT CREATE ON SCHEMA public TO riacho_search;
ALTER FUNCTION matching_chunks OWNER TO riacho_search;
REVOKE CREATE ON SCHEMA public FROM riacho_search;

-- What the function reads, see docs/adr/0007.
CREATE POLICY all_tenants_read ON documents FOR SELECT TO riacho_search USING (true);
CREATE POLICY all_tenants_read ON chunks FOR SELECT TO riacho_search USING (true);
GRANT SELECT ON documents, chunks TO riacho_search;
GRANT SELECT ON folded_stop_words TO riacho_service, riacho_janitor;
