//! The configuration: what the types take, what the schema takes, and that the two are one.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

use content::{CONFIG_LEN_MAX, Config, ConfigError, CrashPoint, CrashPoints, LIMIT_MAX, Quota, Whole};
use jsonschema::Validator;
use proptest::prelude::*;
use serde_json::{Value, json};

fn validator() -> Validator {
    jsonschema::draft202012::new(&Config::schema()).unwrap()
}

fn parse(document: &str) -> Result<Config, ConfigError> {
    Config::parse(document.as_bytes())
}

/// A field is refused, with its name and what it may be.
fn refused(document: &str) -> (String, String) {
    match parse(document).expect_err(document) {
        ConfigError::Field { field, detail } => (field, detail),
        other => panic!("{document}: {other}"),
    }
}

#[test]
fn the_schema_that_is_checked_in_is_the_one_of_the_types() {
    let checked_in: Value =
        serde_json::from_str(include_str!("../../../schemas/content_v1_3.schema.json")).unwrap();
    assert_eq!(checked_in, Config::schema(), "make it anew with `cargo xtask schema`");
    assert_eq!(checked_in["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(checked_in["additionalProperties"], false);
    assert!(jsonschema::meta::is_valid(&checked_in));
}

#[test]
fn the_smallest_document_is_the_default_and_the_default_reads_back() {
    let default = parse(r#"{"schema": "content_v1_3"}"#).unwrap();
    assert_eq!(default, Config::default());
    assert_eq!(default.quota.per_app_bytes.get(), 1 << 30);
    assert_eq!(default.quota.per_app_files.get(), 65_536);
    assert_eq!(default.quota.temp_ratio_pct.get(), 50);
    assert_eq!(default.quota.staged_bytes_max(), 1 << 29);
    assert_eq!(default.recovery.orphan_age_minutes.get(), 10);
    assert!(default.fast_path && !default.crash_sim.enable);
    let text = default.to_json().unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["temp_suffix"], ".nxpart");
    assert_eq!((&document["atomic_replace"], &document["fsync_barriers"]), (&json!(true), &json!(true)));
    assert_eq!(parse(&text).unwrap(), default);
    // What the schema says the defaults are.
    let schema = Config::schema();
    for (field, said) in schema["properties"].as_object().unwrap() {
        if let Some(said) = said.get("default") {
            assert_eq!(said, &document[field], "{field}");
        }
    }
}

#[test]
fn a_barrier_cannot_be_switched_off() {
    for field in ["fsync_barriers", "atomic_replace"] {
        for other in ["false", "null", "1", "\"true\""] {
            let (name, detail) = refused(&format!(r#"{{"schema": "content_v1_3", "{field}": {other}}}"#));
            assert_eq!(name, field);
            assert!(detail.starts_with(&format!("{field} must be true: ")), "{detail}");
        }
    }
    let (name, detail) = refused(r#"{"schema": "content_v1_3", "temp_suffix": ".tmp"}"#);
    assert_eq!(name, "temp_suffix");
    assert!(detail.starts_with("temp_suffix must be \".nxpart\": "), "{detail}");
}

#[test]
fn errors_name_the_field_and_what_it_may_be() {
    let with = |rest: &str| format!(r#"{{"schema": "content_v1_3", {rest}}}"#);
    let cases = [
        (with(r#""quota": {"temp_ratio_pct": 0}"#), "quota.temp_ratio_pct", "0 is out of range: 1 to 100"),
        (with(r#""quota": {"temp_ratio_pct": -1}"#), "quota.temp_ratio_pct", "-1 is out of range: 1 to 100"),
        (with(r#""quota": {"temp_ratio_pct": 1.5}"#), "quota.temp_ratio_pct", "1.5 is not a whole number"),
        (
            with(r#""quota": {"per_app_bytes": "1G"}"#),
            "quota.per_app_bytes",
            "expected a whole number from 1 to",
        ),
        (
            with(r#""quota": {"per_app": 1}"#),
            "quota.per_app",
            "expected one of `per_app_bytes`, `per_app_files`",
        ),
        (with(r#""quota": [1, 1, 1]"#), "quota", "expected an object"),
        (with(r#""crash_sim": {"points": ["after_lunch"]}"#), "crash_sim.points[0]", "`after_dirsync`"),
        (
            with(r#""crash_sim": {"points": ["after_write", "after_write"]}"#),
            "crash_sim.points",
            "`after_write` is there twice",
        ),
        (with(r#""fast_path": "on""#), "fast_path", "expected a boolean"),
        // Seen before it is entered, so the path is the object's.
        (with(r#""fast_path": true, "fast_path": true"#), ".", "duplicate field `fast_path`"),
        (with(r#""fsync": false"#), "fsync", "`fsync_barriers`"),
        (r#"{"schema": "content_v1_4"}"#.to_owned(), "schema", "schema must be \"content_v1_3\""),
        ("{}".to_owned(), ".", "missing field `schema`"),
        ("[]".to_owned(), ".", "expected an object"),
    ];
    for (document, field, part) in cases {
        let (name, detail) = refused(&document);
        assert_eq!(name, field, "{document}: {detail}");
        assert!(detail.contains(part), "{document}: {detail}");
        assert!(detail.contains(" at line 1 column "), "{document}: {detail}");
    }
}

#[test]
fn what_is_no_json_is_refused_as_that() {
    for document in
        ["", "{", r#"{"schema": "content_v1_3"} x"#, r#"{"schema": "content_v1_3",}"#, "\u{feff}{}"]
    {
        let error = parse(document).expect_err(document);
        assert!(matches!(error, ConfigError::Syntax { .. }), "{document}: {error}");
    }
    assert!(matches!(Config::parse(b"{\"schema\": \"\xff\"}"), Err(ConfigError::Syntax { .. })));
    // A document that nests without end is refused, not followed.
    let deep = format!("{{\"schema\": {}", "[".repeat(CONFIG_LEN_MAX - 11));
    assert!(matches!(parse(&deep), Err(ConfigError::Syntax { .. })));
    let (len, limit) = (CONFIG_LEN_MAX + 1, CONFIG_LEN_MAX);
    assert_eq!(parse(&format!("{deep}[")), Err(ConfigError::TooLong { len, limit }));
}

#[test]
fn every_number_is_taken_at_its_limits_and_refused_beyond() {
    fn check<const MIN: u64, const MAX: u64, const DEFAULT: u64>(
        field: &str,
        get: impl Fn(&Config) -> Whole<MIN, MAX, DEFAULT>,
    ) {
        let (section, field) = field.split_once('.').unwrap();
        let of =
            |number: String| format!(r#"{{"schema": "content_v1_3", "{section}": {{"{field}": {number}}}}}"#);
        let schema = validator();
        for good in [MIN, MAX] {
            assert_eq!(get(&parse(&of(good.to_string())).unwrap()).get(), good);
            assert_eq!(get(&parse(&of(format!("{good}.0"))).unwrap()).get(), good);
            assert!(schema.is_valid(&serde_json::from_str(&of(good.to_string())).unwrap()));
            assert_eq!(Whole::<MIN, MAX, DEFAULT>::new(good).unwrap().get(), good);
        }
        for bad in [i128::from(MIN) - 1, i128::from(MAX) + 1] {
            let (_, detail) = refused(&of(bad.to_string()));
            assert!(detail.starts_with(&format!("{bad} is out of range: {MIN} to {MAX}")), "{detail}");
            assert!(!schema.is_valid(&serde_json::from_str(&of(bad.to_string())).unwrap()));
            if let Ok(bad) = u64::try_from(bad) {
                assert!(Whole::<MIN, MAX, DEFAULT>::try_from(bad).is_err());
            }
        }
    }
    check("quota.per_app_bytes", |config| config.quota.per_app_bytes);
    check("quota.per_app_files", |config| config.quota.per_app_files);
    check("quota.temp_ratio_pct", |config| config.quota.temp_ratio_pct);
    check("recovery.orphan_age_minutes", |config| config.recovery.orphan_age_minutes);
}

#[test]
fn the_temp_budget_is_the_ratio_rounded_down() {
    let budget = |bytes: u64, pct: u64| {
        let (per_app_bytes, temp_ratio_pct) = (bytes.try_into().unwrap(), pct.try_into().unwrap());
        Quota { per_app_bytes, temp_ratio_pct, ..Quota::default() }.staged_bytes_max()
    };
    assert_eq!(budget(1000, 25), 250);
    assert_eq!(budget(199, 50), 99);
    assert_eq!(budget(1, 99), 0);
    assert_eq!(budget(LIMIT_MAX, 100), LIMIT_MAX);
    assert_eq!(budget(LIMIT_MAX, 1), LIMIT_MAX / 100);
}

#[test]
fn points_keep_their_order_and_are_different() {
    let names = r#"{"schema": "content_v1_3", "crash_sim": {"enable": true, "points": ["after_fsync", "after_create"]}}"#;
    let points: Vec<CrashPoint> = parse(names).unwrap().crash_sim.points.iter().collect();
    assert_eq!(points, [CrashPoint::AfterFsync, CrashPoint::AfterCreate]);
    assert_eq!(CrashPoints::new(points).unwrap(), parse(names).unwrap().crash_sim.points);
    assert_eq!(CrashPoints::new([CrashPoint::AfterWrite; 2]), Err(CrashPoint::AfterWrite));
    // What the simulator's failpoints are called.
    for point in CrashPoint::ALL {
        assert!(crashsim::MARKS.contains(&point.name()));
        assert_eq!(serde_json::to_value(point).unwrap(), point.name());
    }
}

/// Whether types and schema agree, and on what.
fn both(schema: &Validator, document: &Value) -> bool {
    let taken = parse(&document.to_string());
    assert_eq!(taken.is_ok(), schema.is_valid(document), "{document}: {taken:?}");
    if let Ok(config) = &taken {
        assert_eq!(parse(&config.to_json().unwrap()).as_ref(), Ok(config));
    }
    taken.is_ok()
}

#[test]
fn the_types_and_the_schema_take_the_same_documents() {
    let schema = validator();
    // Each field by itself: these values are taken, the others are not.
    let values = [
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(1),
        json!(10),
        json!(100),
        json!(101),
        json!(1.0),
        json!(-0.0),
        json!(1e2),
        json!(0.5),
        json!(-1),
        json!(LIMIT_MAX),
        json!(LIMIT_MAX + 1),
        json!(u64::MAX),
        json!(1e300),
        json!(""),
        json!("1"),
        json!(".nxpart"),
        json!("content_v1_3"),
        json!("after_create"),
        json!([]),
        json!([1]),
        json!(["after_create"]),
        json!(["after_create", "after_dirsync", "after_fsync", "after_write"]),
        json!(["after_create", "after_create"]),
        json!(["after_rename"]),
        json!([{ "after_create": null }]),
        json!([null]),
        json!({}),
        json!({ "enable": true }),
        json!({ "after_create": null }),
        json!({ "per_app_bytes": 1 }),
        json!({ "orphan_age_minutes": 0 }),
    ];
    let taken = |path: &[&str]| {
        let of = |value: &Value| {
            let mut document = json!({ "schema": "content_v1_3" });
            *path.iter().fold(&mut document, |at, name| &mut at[*name]) = value.clone();
            document
        };
        values.iter().filter(|value| both(&schema, &of(value))).cloned().collect::<Vec<Value>>()
    };
    assert_eq!(taken(&["schema"]), [json!("content_v1_3")]);
    assert_eq!(taken(&["temp_suffix"]), [json!(".nxpart")]);
    assert_eq!(taken(&["atomic_replace"]), [json!(true)]);
    assert_eq!(taken(&["fsync_barriers"]), [json!(true)]);
    assert_eq!(taken(&["fast_path"]), [json!(true), json!(false)]);
    assert_eq!(taken(&["crash_sim"]), [json!({}), json!({ "enable": true })]);
    assert_eq!(taken(&["crash_sim", "enable"]), [json!(true), json!(false)]);
    assert_eq!(taken(&["crash_sim", "points"]).len(), 3);
    assert_eq!(taken(&["quota"]), [json!({}), json!({ "per_app_bytes": 1 })]);
    let whole = [json!(1), json!(10), json!(100), json!(101), json!(1.0), json!(1e2), json!(LIMIT_MAX)];
    assert_eq!(taken(&["quota", "per_app_bytes"]), whole);
    assert_eq!(taken(&["quota", "per_app_files"]), whole);
    assert_eq!(
        taken(&["quota", "temp_ratio_pct"]),
        [json!(1), json!(10), json!(100), json!(1.0), json!(1e2)]
    );
    assert_eq!(taken(&["recovery"]), [json!({}), json!({ "orphan_age_minutes": 0 })]);
    assert_eq!(taken(&["recovery", "orphan_age_minutes"]).len(), 8);
    assert!(taken(&["quota", "per_app"]).is_empty());
    assert!(taken(&["unknown"]).is_empty());
    for bare in &values {
        assert!(!both(&schema, bare), "a configuration names its schema");
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let names = prop::sample::select(vec![
        "schema",
        "temp_suffix",
        "atomic_replace",
        "fsync_barriers",
        "crash_sim",
        "enable",
        "points",
        "quota",
        "per_app_bytes",
        "per_app_files",
        "temp_ratio_pct",
        "recovery",
        "orphan_age_minutes",
        "fast_path",
        "more",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2_i64..120).prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        prop::sample::select(vec!["content_v1_3", ".nxpart", "after_write", "after_fsync", "x"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(names.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Mostly good: each field is left out, right, or any value.
fn near_config() -> impl Strategy<Value = Value> {
    fn field(right: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Option<Value>> {
        prop_oneof![5 => Just(None), 6 => right.prop_map(Some), 1 => any_value().prop_map(Some)].boxed()
    }
    fn section(fields: Vec<(&'static str, BoxedStrategy<Option<Value>>)>) -> BoxedStrategy<Value> {
        let (names, values): (Vec<_>, Vec<_>) = fields.into_iter().unzip();
        let put = move |values: Vec<Option<Value>>| {
            let named = names.iter().zip(values);
            Value::Object(named.filter_map(|(name, value)| Some(((*name).to_owned(), value?))).collect())
        };
        values.prop_map(put).boxed()
    }
    let points =
        prop::sample::subsequence(vec!["after_create", "after_write", "after_fsync", "after_dirsync"], 0..=4);
    let whole = |max: u64| (1..=max).prop_map(Value::from);
    section(vec![
        ("schema", Just(Some(json!("content_v1_3"))).boxed()),
        ("temp_suffix", field(Just(json!(".nxpart")))),
        ("atomic_replace", field(Just(json!(true)))),
        ("fsync_barriers", field(Just(json!(true)))),
        ("fast_path", field(any::<bool>().prop_map(Value::from))),
        (
            "crash_sim",
            field(section(vec![
                ("enable", field(any::<bool>().prop_map(Value::from))),
                ("points", field(points.prop_map(Value::from))),
            ])),
        ),
        (
            "quota",
            field(section(vec![
                ("per_app_bytes", field(whole(LIMIT_MAX))),
                ("per_app_files", field(whole(LIMIT_MAX))),
                ("temp_ratio_pct", field(whole(100))),
            ])),
        ),
        ("recovery", field(section(vec![("orphan_age_minutes", field(whole(1000)))]))),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_types_and_the_schema_agree_on_any_document(document in prop_oneof![near_config(), any_value()]) {
        thread_local!(static SCHEMA: Validator = validator());
        SCHEMA.with(|schema| both(schema, &document));
    }
}
