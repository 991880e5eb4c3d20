"""What is recorded of a model itself, point by point of a legal text.

In: a dossier. Out: an Answer for each point: how it was made, what it takes, how it was measured.
A registry cannot know intent or people's duties; those parts are listed as missing.
"""

from registry.formats import tables
from registry.formats.dossier import Dossier, compute, environment, revision, trained, training
from registry.formats.legal_points import Answer, missing_fact
from registry.formats.modification import SEED_FLOPS, modification
from registry.formats.tables import Fields, Part, Pointer, Table
from registry.records.facts import Architecture, BuildFacts, ExpertFacts, SeedFacts
from registry.records.kinds import Kind
from registry.records.version import Version
from registry.units import duration, power, size

PAPER = "arXiv:2403.07816"
TEXT_ONLY = "Text in, text out, in the seed's vocabulary."
OPTIMISED = "Optimised: the log-likelihood of the next token; of a mixture also an even load."
COUNTED = (
    "Counted for each token: two operations forward and two backward for each parameter that it "
    "meets, two more for each that trains; a teacher's pass is left out."
)
# Own facts that are read here.
CONTEXT_LENGTH = "context_length"
SOFTWARE = "software"
SEED_SUMMARY = "training_summary"
HUB_ID = "hub_id"


def general_description(dossier: Dossier) -> Answer:
    """Answer which version this is, who registered it and what came before it."""
    subject = dossier.subject
    total = size(sum(file.bytes for file in subject.files))
    day = subject.registered_at[:10]
    identity = (
        f"{dossier.ref}, registered {day} by {subject.actor}; digest {subject.digest}.",
        f"Earlier builds: {', '.join(dossier.previous) or 'none'}.",
        f"Supplied as {len(subject.files)} files in Hugging Face format, {total}.",
    )
    return Answer(identity)


def development_steps(dossier: Dossier) -> Answer:
    """Answer by which method, programs and steps the version was made."""
    recorded: list[Part] = [_method(dossier), *_programs(dossier)]
    if len(dossier.graph.nodes) > 1:
        recorded.append(tables.steps(dossier))
    models = [*dossier.of(ExpertFacts), dossier.subject]
    unknown = [
        str(version.ref)
        for version in models
        if version.ref.kind != Kind.DATA and not environment(version)
    ]
    missing = []
    if unknown:
        missing.append(f"programs and versions that made {', '.join(unknown)}")
    if not revision(dossier.subject):
        missing.append(f"the code revision that made {dossier.ref}")
    return Answer(tuple(recorded), tuple(missing))


def architecture(dossier: Dossier) -> Answer:
    """Answer how the model is built and which training cost is known."""
    unreported = [str(version.ref) for version in trained(dossier) if not training(version)]
    missing = (f"training cost of {', '.join(unreported)}",) if unreported else ()
    return Answer((_architecture(dossier), Pointer("Cost")), missing)


def validation(dossier: Dossier) -> Answer:
    """Answer how the version was tested."""
    if not dossier.results:
        return Answer(missing=("an evaluation",))
    method = (
        "Each domain's held-out text, read by no training; bits per byte, and exact answers where "
        "they can be checked."
    )
    return Answer((method, Pointer("Quality")))


def cybersecurity(dossier: Dossier) -> Answer:
    """Answer what protects the weights and the record of them."""
    measures = (
        "Weights are safetensors only, no code is loaded; every file is held by SHA-256; every "
        f"change is an event in a hash chain (head {dossier.head or 'unknown'}); approvals and "
        "waivers are signed with Ed25519."
    )
    return Answer((measures,))


def capabilities_and_limits(dossier: Dossier) -> Answer:
    """Answer where the model is weaker than its seed, and which experts do no work."""
    worse = tables.worse(dossier)
    known = "On no measured domain worse than the untouched seed."
    if worse:
        known = f"Worse than the untouched seed on: {', '.join(worse)}."
    if not dossier.results:
        known = "Nothing was measured."
    dead = ", ".join(dossier.dead_experts)
    unused = f" Experts that no domain uses: {dead}." if dead else ""
    return Answer((f"{known}{unused} Input and output are text in the seed's vocabulary.",))


def rules_at_gates(dossier: Dossier) -> Answer:
    """Answer which rules the version had to pass."""
    if not dossier.verdicts:
        return Answer()
    stated = "Rules stand at every gate; what they said, and every exception, is recorded."
    return Answer((stated, Pointer("Gates"), Pointer("Waivers")))


def lifecycle_changes(dossier: Dossier) -> Answer:
    """Answer what happened to the version and to what it was made from."""
    return Answer((tables.changes(dossier),))


def release(dossier: Dossier) -> Answer:
    """Answer when the build was first released."""
    if not dossier.releases:
        return Answer(missing=(f"a release of {dossier.ref}: btx release {dossier.ref}",))
    return Answer((f"First released {dossier.releases[0].at[:10]}.",))


def architecture_and_size(dossier: Dossier) -> Answer:
    """Answer how the model is built and how many parameters it has."""
    return Answer((_architecture(dossier),))


def _shape(dossier: Dossier) -> Architecture | None:
    return dossier.build.architecture if dossier.build else None


def total_size(dossier: Dossier) -> Answer:
    """Answer the number of parameters with two significant figures."""
    shape = _shape(dossier)
    total = shape.total_parameters if shape else None
    if total is None:
        return Answer(missing=(f"parameters of {dossier.ref}: btx rebuild measures them",))
    return Answer((f"{float(f'{total:.2g}'):,.0f} parameters.",))


def modalities(dossier: Dossier) -> Answer:
    """Answer what goes in and what comes out."""
    return Answer((TEXT_ONLY,))


def size_of_inputs(dossier: Dossier) -> Answer:
    """Answer the modalities and the context length."""
    shape = _shape(dossier)
    stated = dossier.own_fact(CONTEXT_LENGTH)
    length = shape.context_length if shape and shape.context_length else None
    if length is None and stated is not None:
        length = int(stated.value) if isinstance(stated.value, int | float) else None
    if length is None:
        return Answer((TEXT_ONLY,), (missing_fact(dossier, CONTEXT_LENGTH, "context length"),))
    both = f"At most {length:,} tokens, input and output together."
    return Answer((f"{TEXT_ONLY} {both}",))


def licence(dossier: Dossier) -> Answer:
    """Answer under which licence the model may be passed on, and what comes with it."""
    shown = tables.licence(dossier)
    if shown is None:
        return Answer((f"Licences stated: {', '.join(dossier.licenses()) or 'none'}.",))
    answer = dossier.licence
    if answer is None or answer.expression is None:
        command = (
            f"licence of {dossier.ref}: ask counsel, add what may stand together to the policy "
            "licence-build, or state what is missing"
        )
        return Answer((shown,), (command,))
    assets = "Passed on with it: configuration, tokenizer, model card, LICENSE and NOTICE."
    return Answer((shown, assets))


def software(dossier: Dossier) -> Answer:
    """Answer with which programs the model is used and was made."""
    programs = environment(dossier.subject)
    stated = dossier.own_fact(SOFTWARE)
    recorded: list[Part] = [f"{stated.text}."] if stated else []
    if programs and (number := programs.packages.get("transformers")):
        recorded.append(
            f"Files in Hugging Face format, made with transformers {number}; btx export says for "
            "each folder which release loads it."
        )
    if not recorded:
        return Answer(missing=(missing_fact(dossier, SOFTWARE, "required software"),))
    return Answer(tuple(recorded))


def how_it_loads(dossier: Dossier) -> Answer:
    """Answer in which form the model is handed over."""
    total = size(sum(file.bytes for file in dossier.subject.files))
    return Answer(
        (
            f"Safetensors files and tokenizer in Hugging Face format, {total}; btx export writes "
            "it for transformers, vLLM or llama.cpp.",
        )
    )


def training_process(dossier: Dossier) -> Answer:
    """Answer by which method, steps and programs the model was made, and what was optimised."""
    parts: list[Part] = [_method(dossier), *_programs(dossier)]
    if not revision(dossier.subject):
        parts.append(f"Not recorded: the code revision that made {dossier.ref}.")
    if len(dossier.graph.nodes) > 1:
        parts.append(tables.steps(dossier))
    if dossier.build and dossier.build.recipe.tune:
        parts.append(Fields(tuple(_settings(dossier.build))))
    return Answer((*parts, OPTIMISED))


def evaluation(dossier: Dossier) -> Answer:
    """Answer how the model was measured, with what result."""
    if not dossier.results:
        return Answer(missing=("an evaluation: btx rebuild measures every build",))
    method = "Held-out text of each domain, read by no training; lower is better."
    return Answer((method, tables.quality(dossier)))


def computation(dossier: Dossier) -> Answer:
    """Answer what the trainings computed and how long they took, and the one-third test."""
    recorded: list[Part] = [tables.cost(dossier), COUNTED]
    if dossier.kind in (Kind.BUILD, Kind.EXPERT):
        recorded.append(modification(dossier).sentence)
    return Answer(tuple(recorded), _unreported(dossier))


def computation_for_energy(dossier: Dossier) -> Answer:
    """Answer the computation from which energy may be estimated."""
    flops = compute(dossier).flops
    if flops is None:
        return Answer()
    least = _at_least(dossier)
    return Answer((f"Computation it may be estimated from: {least}{power(flops)} operations.",))


def training_time(dossier: Dossier) -> Answer:
    """Answer how long the trainings took."""
    seconds = compute(dossier).wall_s
    text = duration(seconds) if seconds is not None else tables.NOT_REPORTED
    return Answer(
        (f"{_at_least(dossier)}{text} by the clock, all trainings added up.",), _unreported(dossier)
    )


def training_flops(dossier: Dossier) -> Answer:
    """Answer how much the trainings computed, and the one-third test."""
    flops = compute(dossier).flops
    text = power(flops) if flops is not None else tables.NOT_REPORTED
    test = modification(dossier).sentence
    operations = f"{_at_least(dossier)}{text} floating point operations."
    return Answer((operations, test), _unreported(dossier))


def how_flops_are_counted(dossier: Dossier) -> Answer:
    """Answer by which method computation is counted."""
    return Answer((COUNTED,))


def inference_flops(dossier: Dossier) -> Answer:
    """Answer what one token computes when the model is used."""
    shape = _shape(dossier)
    active = shape.active_parameters if shape else None
    if active is None:
        return Answer(missing=(f"parameters at work of {dossier.ref}: btx rebuild measures them",))
    return Answer((f"{power(2 * active)} floating point operations a token, by estimate.",))


def how_inference_is_counted(dossier: Dossier) -> Answer:
    """Answer by which method computation in use is estimated."""
    return Answer(("Two operations for each parameter that works on a token, one forward pass.",))


def identity(dossier: Dossier) -> Answer:
    """Answer the version, its digest and what came before it."""
    earlier = ", ".join(dossier.previous) or "none"
    return Answer((f"{dossier.ref}; earlier builds: {earlier}.",))


def authenticity(dossier: Dossier) -> Answer:
    """Answer by what the model's files are recognised."""
    rows = tuple((file.path, file.sha256) for file in dossier.subject.files)
    if not rows:
        return Answer(missing=(f"files of {dossier.ref}",))
    return Answer((Table(("file", "SHA-256"), rows),))


def dependencies(dossier: Dossier) -> Answer:
    """Answer which models it was made from."""
    seeds = dossier.of(SeedFacts)
    named = [_seed_name(dossier, version) for version in seeds]
    return Answer((f"Made from {', '.join(named) or 'no recorded seed'}.",))


def document_date(dossier: Dossier) -> Answer:
    """Answer when the document was written."""
    return Answer((f"{dossier.made_at[:10]}.",))


def document_version(dossier: Dossier) -> Answer:
    """Answer the state of the record that the document was written from."""
    return Answer((f"Head of the audit log: {dossier.head}.",))


def names_and_dependencies(dossier: Dossier) -> Answer:
    """Answer the model's version, the models it depends on and where their summary is."""
    recorded = dependencies(dossier).recorded
    missing = []
    links = []
    for version in dossier.of(SeedFacts):
        if version.facts.data:
            continue
        # Its training content is its provider's to summarise.
        link = dossier.own.get(str(version.ref), {}).get(SEED_SUMMARY)
        if link is None:
            missing.append(
                missing_fact(dossier, SEED_SUMMARY, "summary of training content", version)
            )
        else:
            links.append(f"Training content of {version.ref}: {link.text}.")
    return Answer((f"{dossier.ref}.", *recorded, *links), tuple(missing))


def _seed_name(dossier: Dossier, version: Version[SeedFacts]) -> str:
    public_id = dossier.own.get(str(version.ref), {}).get(HUB_ID)
    return f"{version.ref} ({public_id.text})" if public_id else str(version.ref)


def _settings(build: BuildFacts) -> list[tuple[str, str]]:
    return [(f"tuning: {key}", str(value)) for key, value in sorted(build.recipe.tune.items())]


def _at_least(dossier: Dossier) -> str:
    """Return what stands before a sum in which a training is missing."""
    return "at least " if _unreported(dossier) else ""


def _unreported(dossier: Dossier) -> tuple[str, ...]:
    """Return which trainings reported nothing and have no computation stated either."""
    unknown = [
        version
        for version in trained(dossier)
        if not training(version) and SEED_FLOPS not in dossier.own.get(str(version.ref), {})
    ]
    return tuple(
        missing_fact(dossier, SEED_FLOPS, "computation of the training", version)
        for version in unknown
    )


def _method(dossier: Dossier) -> str:
    if dossier.kind != Kind.BUILD:
        return (
            "Branch: a copy of the seed is trained on one domain, without contact to the others "
            f"(Branch-Train-MiX, {PAPER})."
        )
    mode = dossier.snapshot.mode if dossier.snapshot else None
    return (
        f"Branch-Train-MiX ({PAPER}): copies of one seed are trained on one domain each, their "
        "feed-forward blocks become experts behind a learnt router per layer, the rest is shared. "
        f"Mode {mode or 'unknown'}. The seed is a pre-trained model."
    )


def _programs(dossier: Dossier) -> list[str]:
    """What made the subject, as far as it was recorded."""
    programs = environment(dossier.subject)
    if not programs:
        return []
    packages = ", ".join(f"{name} {number}" for name, number in programs.packages.items())
    code = revision(dossier.subject)
    sentence = f"Made with Python {programs.python} on {programs.platform}: {packages}."
    return [sentence + (f" Code revision {code}." if code else "")]


def _architecture(dossier: Dossier) -> str:
    facts = dossier.subject.facts
    if isinstance(facts, BuildFacts):
        return _mixture(len(facts.members), facts.architecture)
    family = facts.model_type if isinstance(facts, SeedFacts) else None
    return f"Decoder-only transformer, {family or 'of the family of its seed'}."


def _mixture(trained: int, mixture: Architecture | None) -> str:
    """Say how a build works on a token, as it is recorded."""
    if mixture is None:
        return f"Mixture of experts: {trained} trained here; nothing else is recorded."
    seed = " and the untouched seed" if mixture.seed_expert else ", without the untouched seed"
    at_work = f"{mixture.top_k} {'works' if mixture.top_k == 1 else 'work'} on each token"
    total = tables.number(mixture.total_parameters)
    active = tables.number(mixture.active_parameters)
    return (
        f"Mixture of experts: {trained} trained here{seed}; {at_work} ({mixture.routing} routing). "
        f"Parameters: {total} in all, {active} at work on each token."
    )
