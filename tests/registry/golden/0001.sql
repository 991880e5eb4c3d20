BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE document (
	digest TEXT NOT NULL, 
	body TEXT NOT NULL, 
	PRIMARY KEY (digest)
)
 WITHOUT ROWID

;
INSERT INTO "document" VALUES('bf8b1d33b295b6dafcb59e6763f6c37aed3a4fbb7e3c50fe6417b36f252df19b','{"recipe":{"learning_rate":0.002,"steps":10}}');
INSERT INTO "document" VALUES('dd173943a8629c49809b3444fc906cf9ae24557c7b89953010f4d9d96e01f86e','{"policy":"one"}');
CREATE TABLE edge (
	from_id INTEGER NOT NULL, 
	to_id INTEGER NOT NULL, 
	relation TEXT NOT NULL, 
	PRIMARY KEY (from_id, to_id, relation)
)
 WITHOUT ROWID

;
INSERT INTO "edge" VALUES(3,1,'branched_from');
INSERT INTO "edge" VALUES(4,1,'seed');
INSERT INTO "edge" VALUES(3,2,'trained_on');
INSERT INTO "edge" VALUES(4,3,'member');
INSERT INTO "edge" VALUES(5,4,'composed_from');
CREATE TABLE event (
	seq INTEGER NOT NULL, 
	at TEXT NOT NULL, 
	actor TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	body TEXT NOT NULL, 
	prev TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	PRIMARY KEY (seq)
);
INSERT INTO "event" VALUES(1,'2026-03-01T00:00:00.000000Z','ada','registered','seed/base@1','{"digest":"2bde2d7e34976bcab98aeed5677cee81ba0b2cfba38bc3c392df07a11c4d88f0","documents":[],"rows":{"edge":"4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945","file":"27595ecfd8010686abfcda4a8843a9eee3b1fcf7a87470d7d431d97560bcb055","label":"c2c9901a0a160e3d1b3517f7852987d77a1be361a0bca44b6eb748afa3b823be","version":"bf1ed24ce6d4217e85f1ddcc882943778157d9ed646f736a9ec9665130ce91be"}}','0000000000000000000000000000000000000000000000000000000000000000','f933e38f5e96b3672a0a4b6c0920af00efc2b9255c94b64a4aaa2fcbc9a0f668');
INSERT INTO "event" VALUES(2,'2026-03-01T00:01:00.000000Z','ada','registered','data/math@1','{"digest":"6d4fc7b84944ee2c78c7fe5bc6d9ff4f424dea9d0435507ac6682a5a63dae53c","documents":[],"rows":{"edge":"4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945","file":"a2f4e25f71eac87bad0412c7eedac1ba88d272eda5fa2d4b18a3393bcbfb5712","label":"5c6b1bab97a394578168e8888ab9b4c75d9f3886ba393a9dc4f82601e89c1d64","version":"6519d97f08bfcdadc2657e8fc171f56748d8fb02d24beac81649e185e659362f"}}','f933e38f5e96b3672a0a4b6c0920af00efc2b9255c94b64a4aaa2fcbc9a0f668','dbf5b09db32e486fe5b692348038b8005ed5423a6ae5da083730f9a0fe7790c5');
INSERT INTO "event" VALUES(3,'2026-03-01T00:02:00.000000Z','ada','registered','expert/math@1','{"digest":"28d638066064a805aa9ec969e10bd17b0191db48f8e93c7c09dd7f53f79af60b","documents":["bf8b1d33b295b6dafcb59e6763f6c37aed3a4fbb7e3c50fe6417b36f252df19b"],"rows":{"edge":"f6d8ffdf4df91669111bcffaac722f983f03c09a953238141022c20a58dfbb3b","file":"0a59982f6e8f886058c63b8a0262f7b0622deb6ea2b70fe1abd84b5606349b21","label":"5c8c059ab909d90d2c2eec5503a9d8d832c52d3f38acd7c4fc63d158032f8092","version":"42743662fd64a0302686cd8a8bb6540b06e7bf75109b70d8f22f089ffa789f34"}}','dbf5b09db32e486fe5b692348038b8005ed5423a6ae5da083730f9a0fe7790c5','601115eb50cbbc3b5a628d3ea77181a0033254e113e9adab9426469f598a2ae0');
INSERT INTO "event" VALUES(4,'2026-03-01T00:03:00.000000Z','ada','registered','snapshot/main@1','{"digest":"8389bc5a6ba8608d86ffab13419fe6f5c6d60e37b799eadeca3be3d292e00435","documents":[],"rows":{"edge":"fdba861d7cbca964de541d997d7a6271a1856c485f2dc88403e5abd97a48e93b","file":"4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945","label":"4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945","version":"37111c929771da54b153240e1ea750daea6def59c89552366eca05090e15ca6b"}}','601115eb50cbbc3b5a628d3ea77181a0033254e113e9adab9426469f598a2ae0','73749c666f7d2feaf2ec2ef1b1944ee28a2e32fa4cdde1fbb7223eeae651f158');
INSERT INTO "event" VALUES(5,'2026-03-01T00:04:00.000000Z','ada','registered','build/1','{"digest":"bdf05574514249961115a2f6675d0c158ee9009578babe016abbc8aa66c5920a","documents":[],"rows":{"edge":"44565642900628b714ffd1b27133bc7f6b9c37670b3ab2380c6c6ec58865640b","file":"d9d8cd7eebf84ffce2ae698bbed2d9a19e07d3b0256eaf4e69f73250a782defb","label":"4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945","version":"96257388a1abab29e2c84748683f77c8f9f071269bb18169eccd42cfb73ea0ef"}}','73749c666f7d2feaf2ec2ef1b1944ee28a2e32fa4cdde1fbb7223eeae651f158','512eb857395ff57dcd438f14edf2d7435a37ada57c76d516365bb831f81e3820');
INSERT INTO "event" VALUES(6,'2026-03-01T00:05:00.000000Z','ada','verdict','build/1','{"documents":["dd173943a8629c49809b3444fc906cf9ae24557c7b89953010f4d9d96e01f86e"],"gate":"build","outcome":"allowed"}','512eb857395ff57dcd438f14edf2d7435a37ada57c76d516365bb831f81e3820','f0f6b966fa6388eb72dbd1e40a6bd8a74211c2ff91492af4f744cc6afa44c8df');
INSERT INTO "event" VALUES(7,'2026-03-01T00:06:00.000000Z','ada','released','build/1','{}','f0f6b966fa6388eb72dbd1e40a6bd8a74211c2ff91492af4f744cc6afa44c8df','c5704099a120e1871da50e899aa3971af90ad360ea9a5d3c293fa50b441225c3');
INSERT INTO "event" VALUES(8,'2026-03-01T00:07:00.000000Z','ada','withdrawn','data/math@1','{"why":"consent ended"}','c5704099a120e1871da50e899aa3971af90ad360ea9a5d3c293fa50b441225c3','522ab27298f02b363752d4a1db0b1ece147544dad74db2f23a150d45b64a4730');
CREATE TABLE file (
	version_id INTEGER NOT NULL, 
	path TEXT NOT NULL, 
	bytes INTEGER NOT NULL, 
	sha256 TEXT NOT NULL, 
	linked INTEGER NOT NULL, 
	md5 TEXT, 
	PRIMARY KEY (version_id, path)
)
 WITHOUT ROWID

;
INSERT INTO "file" VALUES(1,'model.safetensors',9,'1111111111111111111111111111111111111111111111111111111111111111',0,NULL);
INSERT INTO "file" VALUES(2,'a.jsonl',12,'2222222222222222222222222222222222222222222222222222222222222222',0,'33333333333333333333333333333333');
INSERT INTO "file" VALUES(3,'model.safetensors',10,'4444444444444444444444444444444444444444444444444444444444444444',0,NULL);
INSERT INTO "file" VALUES(5,'model-shared.safetensors',9,'5555555555555555555555555555555555555555555555555555555555555555',1,NULL);
CREATE TABLE label (
	version_id INTEGER NOT NULL, 
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, 
	number FLOAT, 
	PRIMARY KEY (version_id, "key", value)
)
 WITHOUT ROWID

;
INSERT INTO "label" VALUES(3,'data','data/math@1',NULL);
INSERT INTO "label" VALUES(2,'domain','math',NULL);
INSERT INTO "label" VALUES(3,'domain','math',NULL);
INSERT INTO "label" VALUES(2,'holder','Acme',NULL);
INSERT INTO "label" VALUES(1,'license','Apache-2.0',NULL);
INSERT INTO "label" VALUES(2,'license','CC-BY-4.0',NULL);
INSERT INTO "label" VALUES(3,'license','CC-BY-4.0',NULL);
INSERT INTO "label" VALUES(3,'metric:bits_per_byte','0.71',0.71);
INSERT INTO "label" VALUES(3,'seed','seed/base@1',NULL);
CREATE TABLE version (
	id INTEGER NOT NULL, 
	kind TEXT NOT NULL, 
	name TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	digest TEXT NOT NULL, 
	registered_at TEXT NOT NULL, 
	actor TEXT NOT NULL, 
	facts TEXT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "version" VALUES(1,'seed','base',1,'2bde2d7e34976bcab98aeed5677cee81ba0b2cfba38bc3c392df07a11c4d88f0','2026-03-01T00:00:00.000000Z','ada','{"license":"Apache-2.0","model_type":"llama"}');
INSERT INTO "version" VALUES(2,'data','math',1,'6d4fc7b84944ee2c78c7fe5bc6d9ff4f424dea9d0435507ac6682a5a63dae53c','2026-03-01T00:01:00.000000Z','ada','{"holder":"Acme","license":"CC-BY-4.0","pii":"none","source":"https://example.org/ä"}');
INSERT INTO "version" VALUES(3,'expert','math',1,'28d638066064a805aa9ec969e10bd17b0191db48f8e93c7c09dd7f53f79af60b','2026-03-01T00:02:00.000000Z','ada','{"data":["data/math@1"],"evaluation":{"bits_per_byte":0.71},"licenses":["CC-BY-4.0"],"mode":"anchored","seed":"seed/base@1","train":{"flops":1e+21,"tokens":5}}');
INSERT INTO "version" VALUES(4,'snapshot','main',1,'8389bc5a6ba8608d86ffab13419fe6f5c6d60e37b799eadeca3be3d292e00435','2026-03-01T00:03:00.000000Z','ada','{"members":[{"ref":"expert/math@1","slot":1}],"mode":"anchored"}');
INSERT INTO "version" VALUES(5,'build','',1,'bdf05574514249961115a2f6675d0c158ee9009578babe016abbc8aa66c5920a','2026-03-01T00:04:00.000000Z','ada','{"recipe":{"mix":{"top_k":1},"tune":{"mode":"router"}},"status":"evaluated"}');
CREATE UNIQUE INDEX version_name ON version (kind, name, number);
CREATE INDEX version_digest ON version (digest);
CREATE INDEX file_sha256 ON file (sha256);
CREATE INDEX edge_to ON edge (to_id, from_id);
CREATE INDEX label_value ON label ("key", value, version_id);
CREATE INDEX label_number ON label ("key", number, version_id);
CREATE UNIQUE INDEX event_prev ON event (prev);
CREATE UNIQUE INDEX event_digest ON event (digest);
CREATE INDEX event_subject ON event (subject);
CREATE INDEX event_kind ON event (kind);
CREATE TRIGGER version_no_update BEFORE UPDATE ON version BEGIN SELECT RAISE(ABORT, 'append-only table version'); END;
CREATE TRIGGER version_no_delete BEFORE DELETE ON version BEGIN SELECT RAISE(ABORT, 'append-only table version'); END;
CREATE TRIGGER version_no_replace BEFORE INSERT ON version WHEN EXISTS (SELECT 1 FROM version WHERE (id = NEW.id) OR (kind = NEW.kind AND name = NEW.name AND number = NEW.number)) BEGIN SELECT RAISE(ABORT, 'append-only table version'); END;
CREATE TRIGGER file_no_update BEFORE UPDATE ON file BEGIN SELECT RAISE(ABORT, 'append-only table file'); END;
CREATE TRIGGER file_no_delete BEFORE DELETE ON file BEGIN SELECT RAISE(ABORT, 'append-only table file'); END;
CREATE TRIGGER file_no_replace BEFORE INSERT ON file WHEN EXISTS (SELECT 1 FROM file WHERE (version_id = NEW.version_id AND path = NEW.path)) BEGIN SELECT RAISE(ABORT, 'append-only table file'); END;
CREATE TRIGGER edge_no_update BEFORE UPDATE ON edge BEGIN SELECT RAISE(ABORT, 'append-only table edge'); END;
CREATE TRIGGER edge_no_delete BEFORE DELETE ON edge BEGIN SELECT RAISE(ABORT, 'append-only table edge'); END;
CREATE TRIGGER edge_no_replace BEFORE INSERT ON edge WHEN EXISTS (SELECT 1 FROM edge WHERE (from_id = NEW.from_id AND to_id = NEW.to_id AND relation = NEW.relation)) BEGIN SELECT RAISE(ABORT, 'append-only table edge'); END;
CREATE TRIGGER label_no_update BEFORE UPDATE ON label BEGIN SELECT RAISE(ABORT, 'append-only table label'); END;
CREATE TRIGGER label_no_delete BEFORE DELETE ON label BEGIN SELECT RAISE(ABORT, 'append-only table label'); END;
CREATE TRIGGER label_no_replace BEFORE INSERT ON label WHEN EXISTS (SELECT 1 FROM label WHERE (version_id = NEW.version_id AND key = NEW.key AND value = NEW.value)) BEGIN SELECT RAISE(ABORT, 'append-only table label'); END;
CREATE TRIGGER document_no_update BEFORE UPDATE ON document BEGIN SELECT RAISE(ABORT, 'append-only table document'); END;
CREATE TRIGGER document_no_delete BEFORE DELETE ON document BEGIN SELECT RAISE(ABORT, 'append-only table document'); END;
CREATE TRIGGER document_no_replace BEFORE INSERT ON document WHEN EXISTS (SELECT 1 FROM document WHERE (digest = NEW.digest)) BEGIN SELECT RAISE(ABORT, 'append-only table document'); END;
CREATE TRIGGER event_no_update BEFORE UPDATE ON event BEGIN SELECT RAISE(ABORT, 'append-only table event'); END;
CREATE TRIGGER event_no_delete BEFORE DELETE ON event BEGIN SELECT RAISE(ABORT, 'append-only table event'); END;
CREATE TRIGGER event_no_replace BEFORE INSERT ON event WHEN EXISTS (SELECT 1 FROM event WHERE (seq = NEW.seq) OR (prev = NEW.prev) OR (digest = NEW.digest)) BEGIN SELECT RAISE(ABORT, 'append-only table event'); END;
CREATE TRIGGER event_chain BEFORE INSERT ON event WHEN NEW.seq <> (SELECT COALESCE(MAX(seq), 0) + 1 FROM event) OR NEW.prev <> COALESCE((SELECT digest FROM event ORDER BY seq DESC LIMIT 1), '0000000000000000000000000000000000000000000000000000000000000000') BEGIN SELECT RAISE(ABORT, 'not the next event'); END;
COMMIT;
