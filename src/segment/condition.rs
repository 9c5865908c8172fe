//! The free condition of a segment: a CEL expression over the user's record (SPEC-WINBACK section 9, `when`).
//!
//! Compiled once. A type error, a missing property or any other failure of an evaluation is [`Failed`], which counts as
//! false. What can fail for every user, an unknown variable or function, is found at the check instead.
//!
//! Expressions that are nothing but `properties.x == "text"` (or `true`, `false`), joined by `&&`, are compared without
//! the interpreter; of others, such parts are tried first and may decide that the whole is false. CEL allows it: `&&` is
//! commutative, false whenever one side is, even if the other fails.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use cel::common::ast::{Expr, LiteralValue, operators};
use cel::common::types::{CelBool, CelDouble, CelInt, CelString};
use cel::common::value::CowVal;
use cel::context::VariableResolver;
use cel::{Context, Env, IdedExpr, Program, Value};

use crate::lifecycle::user::Life;
use crate::lifecycle::{Policy, User};
use crate::time::{DAY_MS, EventTime};

/// The variables that `when` may use.
pub const VARIABLES: [&str; 11] = [
    "user_id",
    "state",
    "activated",
    "core_actions",
    "total_events",
    "idle_days",
    "first_active_at",
    "last_active_at",
    "p_alive",
    "last_events",
    PROPERTIES,
];
/// The variable that holds the tracked properties.
pub(super) const PROPERTIES: &str = "properties";

/// Longest expression, in bytes.
pub const WHEN_BYTES_MAX: usize = 4096;
/// Deepest nesting of brackets: parser and interpreter descend on the stack.
pub const WHEN_DEPTH_MAX: usize = 32;

/// CEL's standard functions, for compiling and evaluating alike.
static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// A compiled condition.
#[derive(Debug)]
pub struct Condition {
    program: Program,
    variables: BTreeSet<String>,
    /// Properties that are read by name.
    properties: BTreeSet<String>,
    /// The tracked properties, for the interpreter.
    track: Box<[String]>,
    /// Parts that hold whenever the whole does.
    parts: Vec<Part>,
    /// Whether `parts` are the whole.
    parts_suffice: bool,
}

/// `properties.<track[index]> == <text>`.
#[derive(Debug)]
struct Part {
    index: u16,
    /// The literal as JSON. A property's text equal to it is equal to the literal.
    text: Box<str>,
}

/// The user that a condition is evaluated for.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The user's id.
    pub user_id: &'a str,
    /// The record.
    pub user: &'a User,
    /// The record's life.
    pub life: &'a Life,
    /// As of when: `idle_days` and `p_alive` are those at this moment.
    pub at: EventTime,
    /// For `p_alive`.
    pub policy: &'a Policy,
}

/// The evaluation failed: a property is missing, types do not match, a number overflows. Counts as false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed;

impl Condition {
    /// Compiles an expression. `track` are the tracked properties.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn new(source: &str, track: &[String]) -> Result<Self, String> {
        if source.len() > WHEN_BYTES_MAX {
            return Err(format!("the expression is longer than {WHEN_BYTES_MAX} bytes"));
        }
        if depth(source) > WHEN_DEPTH_MAX {
            return Err(format!("the expression nests deeper than {WHEN_DEPTH_MAX} brackets"));
        }
        let program = ENV.compile(source).map_err(|problems| {
            let text = problems.to_string();
            format!("this is no CEL expression: {}", text.split_whitespace().collect::<Vec<_>>().join(" "))
        })?;
        let mut names = Names::default();
        names.visit(program.expression(), &mut Vec::new());
        if let Some(unknown) = names.variables.iter().find(|name| !VARIABLES.contains(&name.as_str())) {
            return Err(format!("`{unknown}` is unknown; there are {}", VARIABLES.join(", ")));
        }
        let mut parts = Vec::new();
        let parts_suffice = split(program.expression(), track, &mut parts);
        let Names { variables, properties, .. } = names;
        Ok(Self { program, variables, properties, track: track.into(), parts, parts_suffice })
    }

    /// Whether it reads this variable.
    #[must_use]
    pub fn reads(&self, variable: &str) -> bool {
        self.variables.contains(variable)
    }

    /// Whether it reads nothing but the user's id, state, activation and properties.
    #[must_use]
    pub fn is_steady(&self) -> bool {
        self.variables.iter().all(|variable| ["user_id", "state", "activated", PROPERTIES].contains(&variable.as_str()))
    }

    /// The properties that it names.
    pub fn properties(&self) -> impl Iterator<Item = &str> {
        self.properties.iter().map(String::as_str)
    }

    /// Evaluates it.
    ///
    /// # Errors
    /// [`Failed`], which counts as false.
    pub fn holds(&self, subject: &Subject<'_>) -> Result<bool, Failed> {
        let mut missing = false;
        for part in &self.parts {
            match part.holds(subject.user) {
                Some(true) => {}
                Some(false) => return Ok(false),
                None => missing = true,
            }
        }
        if self.parts_suffice && !missing {
            return Ok(true);
        }
        self.interpret(subject)
    }

    /// Evaluates it by the interpreter alone.
    pub(super) fn interpret(&self, subject: &Subject<'_>) -> Result<bool, Failed> {
        let record = Record { subject, track: &self.track };
        let mut context = Context::with_env(Arc::clone(&ENV));
        context.set_variable_resolver(&record);
        match self.program.execute(&context) {
            Ok(Value::Bool(holds)) => Ok(holds),
            Ok(_) | Err(_) => Err(Failed),
        }
    }
}

impl Part {
    /// `None` when this comparison cannot tell: the property is missing, or its text has escapes.
    fn holds(&self, user: &User) -> Option<bool> {
        let text = property(user, self.index)?;
        if *text == *self.text {
            return Some(true);
        }
        if text.contains('\\') { None } else { Some(false) }
    }
}

/// The compact JSON text of a tracked property.
fn property(user: &User, index: u16) -> Option<&str> {
    let at = user.properties.binary_search_by_key(&index, |(known, _)| *known).ok()?;
    Some(&user.properties[at].1)
}

/// Collects parts of `expression` into `parts`; true when they say all that it says.
fn split(expression: &IdedExpr, track: &[String], parts: &mut Vec<Part>) -> bool {
    let Expr::Call(call) = &expression.expr else { return false };
    let [left, right] = &call.args[..] else { return false };
    if call.func_name == operators::LOGICAL_AND {
        // Both sides, whatever the first says.
        return split(left, track, parts) & split(right, track, parts);
    }
    if call.func_name != operators::EQUALS {
        return false;
    }
    let part = comparison(left, right, track).or_else(|| comparison(right, left, track));
    part.map(|part| parts.push(part)).is_some()
}

fn comparison(property: &IdedExpr, literal: &IdedExpr, track: &[String]) -> Option<Part> {
    let (Expr::Select(select), Expr::Literal(literal)) = (&property.expr, &literal.expr) else { return None };
    let Expr::Ident(variable) = &select.operand.expr else { return None };
    if select.test || variable != PROPERTIES {
        return None;
    }
    let text = match literal {
        LiteralValue::String(text) => serde_json::to_string(text.inner()).ok()?,
        LiteralValue::Boolean(value) => value.inner().to_string(),
        // 5 and 5.0 are equal, and so are not decided by their text.
        LiteralValue::Bytes(_)
        | LiteralValue::Double(_)
        | LiteralValue::Int(_)
        | LiteralValue::Null
        | LiteralValue::UInt(_) => return None,
    };
    let index = track.iter().position(|name| *name == select.field)?;
    Some(Part { index: u16::try_from(index).ok()?, text: text.into() })
}

/// An upper bound of how deep an expression nests: brackets open at once, those in strings included, and every operator
/// that nests without one (`!!a`, `- -a`, `a ? b : c ? d : e`).
fn depth(source: &str) -> usize {
    let (mut open, mut deepest, mut unbracketed) = (0usize, 0, 0);
    for byte in source.bytes() {
        match byte {
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            b'!' | b'-' | b'?' => unbracketed += 1,
            _ => {}
        }
        deepest = deepest.max(open);
    }
    deepest + unbracketed
}

/// The variables that an expression reads, and the properties that it names.
#[derive(Default)]
struct Names {
    variables: BTreeSet<String>,
    properties: BTreeSet<String>,
}

impl Names {
    /// `bound` are the variables of the comprehensions around.
    fn visit<'e>(&mut self, expression: &'e IdedExpr, bound: &mut Vec<&'e str>) {
        match &expression.expr {
            Expr::Unspecified | Expr::Literal(_) => {}
            Expr::Ident(name) => {
                if !name.starts_with('@') && !bound.contains(&name.as_str()) {
                    self.variables.insert(name.trim_start_matches('.').to_owned());
                }
            }
            Expr::Select(select) => {
                if matches!(&select.operand.expr, Expr::Ident(name) if name == PROPERTIES) {
                    self.properties.insert(select.field.clone());
                }
                self.visit(&select.operand, bound);
            }
            Expr::Call(call) => {
                let parts = call.target.iter().map(|target| &**target).chain(&call.args);
                parts.for_each(|part| self.visit(part, bound));
            }
            Expr::List(list) => list.elements.iter().for_each(|element| self.visit(element, bound)),
            Expr::Comprehension(comprehension) => {
                self.visit(&comprehension.iter_range, bound);
                self.visit(&comprehension.accu_init, bound);
                let outer = bound.len();
                bound.push(&comprehension.iter_var);
                bound.extend(comprehension.iter_var2.as_deref());
                bound.push(&comprehension.accu_var);
                self.visit(&comprehension.loop_cond, bound);
                self.visit(&comprehension.loop_step, bound);
                self.visit(&comprehension.result, bound);
                bound.truncate(outer);
            }
            Expr::Map(_) | Expr::Struct(_) => {
                let references = expression.references();
                let free = references.variables().into_iter().filter(|name| !bound.contains(name));
                self.variables.extend(free.map(str::to_owned));
            }
        }
    }
}

/// Resolves the variables as the interpreter asks for them. A property that is named is asked for by its whole name
/// first, so that the others are not even parsed.
struct Record<'a> {
    subject: &'a Subject<'a>,
    track: &'a [String],
}

impl VariableResolver for Record<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let Subject { user_id, user, life, at, policy } = *self.subject;
        if let Some(name) = variable.strip_prefix("properties.") {
            let index = self.track.iter().position(|known| known == name)?;
            return value(property(user, u16::try_from(index).ok()?)?);
        }
        let int = |number: i64| Some(CowVal::owned(CelInt::from(number)));
        let whole = |number: u64| int(i64::try_from(number).unwrap_or(i64::MAX));
        match variable {
            "user_id" => Some(CowVal::owned(CelString::from(user_id))),
            "state" => Some(CowVal::owned(CelString::from(life.state.as_str()))),
            "activated" => Some(CowVal::owned(CelBool::from(life.activated_at.is_some()))),
            "core_actions" => whole(life.core_actions),
            "total_events" => whole(life.total_events),
            "idle_days" => int((at - life.last_active).as_millis().div_euclid(DAY_MS)),
            "first_active_at" => timestamp(life.first_active),
            "last_active_at" => timestamp(life.last_active),
            "p_alive" => user.p_alive(at, policy).map(|p| CowVal::owned(CelDouble::from(p))),
            "last_events" => {
                let names: Vec<Value> = life.last_events.iter().map(|name| Value::from(&**name)).collect();
                Value::from(names).try_into().ok().map(CowVal::Owned)
            }
            PROPERTIES => {
                let named = user.properties.iter().filter_map(|(index, text)| {
                    let name = self.track.get(usize::from(*index)).filter(|name| !name.is_empty())?;
                    Some((name.clone(), from_json(&serde_json::from_str(text).ok()?)))
                });
                let map: std::collections::HashMap<String, Value> = named.collect();
                Value::from(map).try_into().ok().map(CowVal::Owned)
            }
            _ => None,
        }
    }
}

fn timestamp<'b>(time: EventTime) -> Option<CowVal<'b, 'b>> {
    let time = chrono::DateTime::from_timestamp_millis(time.as_millis())?;
    Value::Timestamp(time.fixed_offset()).try_into().ok().map(CowVal::Owned)
}

/// A property's value from its JSON text. Most are short strings without escapes, and are borrowed.
fn value(text: &str) -> Option<CowVal<'_, '_>> {
    let plain = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).filter(|inner| !inner.contains('\\'));
    if let Some(plain) = plain {
        return Some(CowVal::owned(CelString::from(plain)));
    }
    from_json(&serde_json::from_str(text).ok()?).try_into().ok().map(CowVal::Owned)
}

/// Whole numbers that fit are `int`, all others `double`: `properties.seats > 5` works as it reads.
fn from_json(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(value) => Value::Bool(*value),
        serde_json::Value::Number(number) => {
            number.as_i64().map_or_else(|| number.as_f64().map_or(Value::Null, Value::Float), Value::Int)
        }
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => Value::from(items.iter().map(from_json).collect::<Vec<_>>()),
        serde_json::Value::Object(fields) => {
            let map: std::collections::HashMap<String, Value> =
                fields.iter().map(|(name, field)| (name.clone(), from_json(field))).collect();
            Value::from(map)
        }
    }
}
