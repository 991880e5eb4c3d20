-- Roles for a registry on PostgreSQL. The owner of its tables runs this once the first btx command
-- has made them, and again after an upgrade:
--   psql -d DATABASE -f postgresql-roles.sql
--   CREATE ROLE ada LOGIN IN ROLE btx_writer;
-- A reader lists, shows and audits. A writer registers, decides and withdraws; neither changes nor
-- removes what is there. Who is to make backups needs no more than a reader.
DO $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'btx_reader') THEN
        CREATE ROLE btx_reader NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'btx_writer') THEN
        CREATE ROLE btx_writer NOLOGIN;
    END IF;
END
$$;
GRANT btx_reader TO btx_writer;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO btx_reader;
GRANT INSERT ON event, document, version, file, edge, label TO btx_writer;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO btx_writer;

-- A row is taken only in one transaction with its event: one that was slipped in beside the log
-- would be found by every audit from then on, and nobody but the owner could take it out.
CREATE OR REPLACE FUNCTION btx_with_its_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    own CONSTANT xid := pg_current_xact_id()::xid;
    known boolean;
BEGIN
    IF TG_TABLE_NAME = 'document' THEN
        known := EXISTS (SELECT 1 FROM event WHERE xmin = own);
    ELSIF TG_TABLE_NAME = 'version' THEN
        known := EXISTS (
            SELECT 1 FROM event WHERE xmin = own AND kind = 'registered'
            AND subject IN (
                NEW.kind || '/' || NEW.name || '@' || NEW.number, NEW.kind || '/' || NEW.number
            )
        );
    ELSIF TG_TABLE_NAME = 'edge' THEN
        known := EXISTS (SELECT 1 FROM version WHERE xmin = own AND id IN (NEW.from_id, NEW.to_id));
    ELSE
        known := EXISTS (SELECT 1 FROM version WHERE xmin = own AND id = NEW.version_id);
    END IF;
    IF NOT known THEN
        RAISE EXCEPTION 'a row of table % without its event', TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END
$$;
DO $$
DECLARE
    one text;
BEGIN
    FOREACH one IN ARRAY ARRAY['document', 'version', 'file', 'edge', 'label'] LOOP
        EXECUTE format('DROP TRIGGER IF EXISTS %I ON %I', one || '_with_its_event', one);
        EXECUTE format(
            'CREATE CONSTRAINT TRIGGER %I AFTER INSERT ON %I DEFERRABLE INITIALLY DEFERRED '
            'FOR EACH ROW EXECUTE FUNCTION btx_with_its_event()',
            one || '_with_its_event', one
        );
    END LOOP;
END
$$;
