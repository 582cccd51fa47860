//! Evaluating an expression.

use std::cmp::Ordering;
use std::sync::{Arc, LazyLock};

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Expression, State, Value};

use super::builtins::{environment, text_of};
use super::node::{Args, Comparison, Math, Node, Op};
use super::scope::Fields;
use super::{EvalError, EvalErrorKind, Scope};

/// What an expression may cost: filters pay for the items and bytes that they handle.
const FUEL: u64 = 100_000;

static ENV: LazyLock<Environment<'static>> = LazyLock::new(|| environment(FUEL));

/// Arithmetic and slices are the template engine's own, so that they agree with templates.
struct Arithmetic {
    neg: Expression<'static, 'static>,
    add: Expression<'static, 'static>,
    sub: Expression<'static, 'static>,
    mul: Expression<'static, 'static>,
    div: Expression<'static, 'static>,
    floor_div: Expression<'static, 'static>,
    rem: Expression<'static, 'static>,
    pow: Expression<'static, 'static>,
    slice: Expression<'static, 'static>,
}

static ARITHMETIC: LazyLock<Option<Arithmetic>> = LazyLock::new(|| {
    let compile = |source| ENV.compile_expression(source).ok();
    Some(Arithmetic {
        neg: compile("-a")?,
        add: compile("a + b")?,
        sub: compile("a - b")?,
        mul: compile("a * b")?,
        div: compile("a / b")?,
        floor_div: compile("a // b")?,
        rem: compile("a % b")?,
        pow: compile("a ** b")?,
        slice: compile("a[b:c:d]")?,
    })
});

/// Evaluates an expression; `source` is its text, from which messages are cut.
pub(super) fn eval(node: &Node, source: &str, scope: &Scope) -> Result<Value, EvalError> {
    let mut run = Run { source, scope, state: None };
    run.defined(node)
}

struct Run<'a> {
    source: &'a str,
    scope: &'a Scope,
    /// Carries the fuel; made when the first filter, test or function is called.
    state: Option<State<'static, 'static>>,
}

impl Run<'_> {
    fn fail(&self, node: &Node, kind: EvalErrorKind, why: &str) -> EvalError {
        let text = self.source.get(node.range.clone()).unwrap_or_default();
        EvalError { message: format!("`{text}` {why}"), range: Some(node.range.clone()), kind }
    }

    fn type_error(&self, node: &Node, due: &str, found: &Value) -> EvalError {
        self.fail(node, EvalErrorKind::Type, &format!("is {}, expected {due}", kind(found)))
    }

    fn engine_error(&self, node: &Node, error: &Error) -> EvalError {
        let (kind, why) = explain(error);
        self.fail(node, kind, &why)
    }

    fn state(&mut self) -> &mut State<'static, 'static> {
        self.state.get_or_insert_with(|| ENV.empty_state())
    }

    /// Evaluates a part that must have a value.
    fn defined(&mut self, node: &Node) -> Result<Value, EvalError> {
        let value = self.eval(node)?;
        if value.is_undefined() {
            return Err(self.fail(node, EvalErrorKind::Undefined, "has no value"));
        }
        Ok(value)
    }

    fn boolean(&mut self, node: &Node) -> Result<bool, EvalError> {
        let value = self.defined(node)?;
        match value.kind() {
            ValueKind::Bool => Ok(value.is_true()),
            _ => Err(self.type_error(node, "`true` or `false`", &value)),
        }
    }

    /// Evaluates a part; a name or field without a value is undefined, which tests may ask for.
    fn eval(&mut self, node: &Node) -> Result<Value, EvalError> {
        match &node.op {
            Op::Const(value) => Ok(value.clone()),
            Op::Name(name) => Ok(self.scope.get(name).cloned().unwrap_or(Value::UNDEFINED)),
            Op::Attr(object, name) => {
                let object = self.defined(object)?;
                object.get_attr(name).map_err(|e| self.engine_error(node, &e))
            }
            Op::Item(parts) => {
                let [object, key] = &**parts;
                let (object, key) = (self.defined(object)?, self.defined(key)?);
                object.get_item(&key).map_err(|e| self.engine_error(node, &e))
            }
            Op::Slice(object, bounds) => {
                let object = self.defined(object)?;
                let mut values = [const { Value::UNDEFINED }; 3];
                for (value, bound) in values.iter_mut().zip(bounds) {
                    *value = match bound {
                        Some(bound) => self.defined(bound)?,
                        None => Value::from(()),
                    };
                }
                let [from, to, stride] = values;
                let stride = if stride.is_none() { Value::from(1) } else { stride };
                self.arithmetic(node, |a| &a.slice, &[("a", object), ("b", from), ("c", to), ("d", stride)])
            }
            Op::Not(inner) => Ok(Value::from(!self.boolean(inner)?)),
            Op::And(parts) => {
                let [left, right] = &**parts;
                Ok(Value::from(self.boolean(left)? && self.boolean(right)?))
            }
            Op::Or(parts) => {
                let [left, right] = &**parts;
                Ok(Value::from(self.boolean(left)? || self.boolean(right)?))
            }
            Op::Math(math, parts) => self.math(node, *math, parts),
            Op::Concat(parts) => {
                let mut out = String::new();
                for part in &**parts {
                    let value = self.defined(part)?;
                    out.push_str(&text_of(&value).map_err(|e| self.engine_error(part, &e))?);
                }
                self.pay(node, out.len())?;
                Ok(Value::from(out))
            }
            Op::Compare(first, rest) => {
                let mut left = self.defined(first)?;
                let mut left_node: &Node = first;
                for (how, right_node) in rest {
                    let right = self.defined(right_node)?;
                    if !self.compare(*how, (left_node, &left), (right_node, &right))? {
                        return Ok(Value::from(false));
                    }
                    (left, left_node) = (right, right_node);
                }
                Ok(Value::from(true))
            }
            Op::If(parts) => {
                let [condition, then, otherwise] = &**parts;
                if self.boolean(condition)? { self.eval(then) } else { self.eval(otherwise) }
            }
            Op::Filter(name, value, args) => {
                let value = match &**name {
                    "default" | "d" => self.eval(value)?,
                    _ => self.defined(value)?,
                };
                let args = self.args(value, args)?;
                let made = self.state().apply_filter(name, &args).map_err(|e| self.engine_error(node, &e))?;
                self.pay(node, size(&made))?;
                Ok(made)
            }
            Op::Test(name, value, args) => {
                let value = match &**name {
                    "defined" | "undefined" => self.eval(value)?,
                    _ => self.defined(value)?,
                };
                let args = self.args(value, args)?;
                self.state()
                    .perform_test(name, &args)
                    .map(Value::from)
                    .map_err(|e| self.engine_error(node, &e))
            }
            Op::Call(name, args) => {
                let mut args = self.args(Value::UNDEFINED, args)?;
                args.remove(0);
                super::builtins::call(name, &args, self.state()).map_err(|e| self.engine_error(node, &e))
            }
            Op::List(items) => {
                items.iter().map(|item| self.defined(item)).collect::<Result<Vec<_>, _>>().map(Value::from)
            }
            Op::Map(fields) => {
                let mut found: Vec<(Arc<str>, Value)> = Vec::with_capacity(fields.len());
                for (key_node, value) in fields {
                    let key = self.defined(key_node)?;
                    let Some(key) = key.to_str() else {
                        return Err(self.type_error(key_node, "a text", &key));
                    };
                    let value = self.defined(value)?;
                    found.retain(|(known, _)| *known != key);
                    found.push((key, value));
                }
                Ok(Value::from_object(Fields(found)))
            }
        }
    }

    fn args(&mut self, first: Value, args: &Args) -> Result<Vec<Value>, EvalError> {
        let mut values = vec![first];
        for node in &args.positional {
            values.push(self.defined(node)?);
        }
        if !args.named.is_empty() {
            let named = args.named.iter().map(|(name, node)| Ok((name.to_string(), self.defined(node)?)));
            values.push(named.collect::<Result<Kwargs, EvalError>>()?.into());
        }
        Ok(values)
    }

    fn pay(&mut self, node: &Node, bytes: usize) -> Result<(), EvalError> {
        let paid = self.state().consume_fuel(1 + bytes as u64 / 64);
        paid.map_err(|e| self.engine_error(node, &e))
    }

    fn math(&mut self, node: &Node, math: Math, parts: &[Node]) -> Result<Value, EvalError> {
        let mut values = Vec::with_capacity(2);
        for part in parts {
            let value = self.defined(part)?;
            let fits = match value.kind() {
                ValueKind::Number => true,
                ValueKind::String | ValueKind::Seq | ValueKind::Iterable => math == Math::Add,
                _ => false,
            };
            if !fits {
                return Err(self.type_error(part, "a number", &value));
            }
            values.push(value);
        }
        if let ([_, right], [a, b]) = (parts, values.as_slice())
            && a.is_number() != b.is_number()
        {
            return Err(self.type_error(right, kind(a), b));
        }
        if matches!(math, Math::Div | Math::FloorDiv | Math::Rem) && values.get(1) == Some(&Value::from(0)) {
            return Err(self.fail(node, EvalErrorKind::Other, "divides by zero"));
        }
        self.pay(node, values.iter().map(size).sum())?;
        let names: Vec<_> = ["a", "b"].into_iter().zip(values).collect();
        self.arithmetic(
            node,
            |ops| match math {
                Math::Neg => &ops.neg,
                Math::Add => &ops.add,
                Math::Sub => &ops.sub,
                Math::Mul => &ops.mul,
                Math::Div => &ops.div,
                Math::FloorDiv => &ops.floor_div,
                Math::Rem => &ops.rem,
                Math::Pow => &ops.pow,
            },
            &names,
        )
    }

    fn arithmetic(
        &self,
        node: &Node,
        pick: impl FnOnce(&'static Arithmetic) -> &'static Expression<'static, 'static>,
        values: &[(&'static str, Value)],
    ) -> Result<Value, EvalError> {
        let Some(ops) = &*ARITHMETIC else {
            return Err(self.fail(node, EvalErrorKind::Other, "cannot be computed"));
        };
        let names = values.iter().map(|(name, value)| (Arc::from(*name), value.clone())).collect();
        pick(ops).eval(Value::from_object(Fields(names))).map_err(|e| self.engine_error(node, &e))
    }

    fn compare(
        &self,
        how: Comparison,
        (left_node, left): (&Node, &Value),
        (right_node, right): (&Node, &Value),
    ) -> Result<bool, EvalError> {
        let order = |accepted: fn(Ordering) -> bool| match (left.kind(), right.kind()) {
            (ValueKind::Number, ValueKind::Number) | (ValueKind::String, ValueKind::String) => {
                Ok(accepted(left.cmp(right)))
            }
            (ValueKind::Number | ValueKind::String, _) => Err(self.type_error(right_node, kind(left), right)),
            _ => Err(self.type_error(left_node, "a number or a text", left)),
        };
        let equal = || {
            if comparable(left, right) {
                Ok(left == right)
            } else {
                Err(self.type_error(right_node, kind(left), right))
            }
        };
        match how {
            Comparison::Eq => equal(),
            Comparison::Ne => equal().map(|equal| !equal),
            Comparison::Lt => order(Ordering::is_lt),
            Comparison::Lte => order(Ordering::is_le),
            Comparison::Gt => order(Ordering::is_gt),
            Comparison::Gte => order(Ordering::is_ge),
            Comparison::In => self.contains((left_node, left), (right_node, right)),
            Comparison::NotIn => {
                self.contains((left_node, left), (right_node, right)).map(|contains| !contains)
            }
        }
    }

    fn contains(
        &self,
        (item_node, item): (&Node, &Value),
        (holder_node, holder): (&Node, &Value),
    ) -> Result<bool, EvalError> {
        match holder.kind() {
            ValueKind::String => match (item.as_str(), holder.as_str()) {
                (Some(item), Some(holder)) => Ok(holder.contains(item)),
                _ => Err(self.type_error(item_node, "a text", item)),
            },
            ValueKind::Map => match item.as_str() {
                Some(key) => {
                    let field = holder.get_attr(key).map_err(|e| self.engine_error(holder_node, &e))?;
                    Ok(!field.is_undefined())
                }
                None => Err(self.type_error(item_node, "the name of a field", item)),
            },
            ValueKind::Seq | ValueKind::Iterable => {
                let mut compared = holder.len() == Some(0);
                let items = holder.try_iter().map_err(|e| self.engine_error(holder_node, &e))?;
                for found in items {
                    if comparable(item, &found) {
                        compared = true;
                        if *item == found {
                            return Ok(true);
                        }
                    }
                }
                if compared {
                    Ok(false)
                } else {
                    Err(self.fail(
                        item_node,
                        EvalErrorKind::Type,
                        &format!("is {}, and the list holds nothing of that kind", kind(item)),
                    ))
                }
            }
            _ => Err(self.type_error(holder_node, "a list, a text or an object", holder)),
        }
    }
}

/// Estimates what a value takes to make: its text, or a slot for each of its items.
fn size(value: &Value) -> usize {
    value.as_str().map_or_else(|| value.len().unwrap_or(1) * 24, str::len)
}

/// Tells whether two values may be asked to be equal: they are of one kind, or one of them is null.
fn comparable(a: &Value, b: &Value) -> bool {
    let class = |value: &Value| match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => ValueKind::Seq,
        kind => kind,
    };
    a.is_none() || b.is_none() || class(a) == class(b)
}

/// Names the kind of a value, for messages that must not show the value.
fn kind(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::Undefined => "nothing",
        ValueKind::None => "null",
        ValueKind::Bool => "a boolean",
        ValueKind::Number => "a number",
        ValueKind::String => "a text",
        ValueKind::Seq | ValueKind::Iterable => "a list",
        ValueKind::Map => "an object",
        _ => "no data",
    }
}

/// Says what the template engine's error means, without the values that its own text may hold.
pub(crate) fn explain(error: &Error) -> (EvalErrorKind, String) {
    let detail = error.detail().unwrap_or_default();
    if detail == "recursion limit exceeded" {
        return (EvalErrorKind::Limit, "includes or calls itself too deeply".to_owned());
    }
    // Our own filters say what is wrong in fixed words.
    let ours = OWN_WORDS.iter().find(|words| **words == detail).copied();
    match error.kind() {
        ErrorKind::UndefinedError => (EvalErrorKind::Undefined, "has no value".to_owned()),
        ErrorKind::OutOfFuel => (EvalErrorKind::Limit, "does too much work".to_owned()),
        ErrorKind::WriteFailure => (EvalErrorKind::Limit, "makes too much text".to_owned()),
        ErrorKind::InvalidOperation
        | ErrorKind::NonPrimitive
        | ErrorKind::NonKey
        | ErrorKind::CannotUnpack
        | ErrorKind::CannotDeserialize
        | ErrorKind::BadSerialization => {
            if let Some(words) = ours {
                return (EvalErrorKind::Type, format!("does not work: {words}"));
            }
            match VALUES.iter().find(|(start, _)| detail.starts_with(start)) {
                Some((_, words)) => (EvalErrorKind::Other, format!("does not work on this value: {words}")),
                None => (EvalErrorKind::Type, "does not work on a value of this type".to_owned()),
            }
        }
        ErrorKind::TooManyArguments | ErrorKind::MissingArgument => {
            (EvalErrorKind::Type, "has too many or too few arguments".to_owned())
        }
        _ => (EvalErrorKind::Other, format!("failed: {}", error.kind())),
    }
}

/// How the engine's words begin where a value has the right type and is wrong nevertheless, and what is wrong with it.
const VALUES: [(&str, &str); 22] = [
    ("unable to calculate", "it divides by zero, or the number is too large"),
    ("overflow on abs", "the number is too large"),
    ("rounded value is too large", "the number is too large"),
    ("unable to round value", "the number is too large"),
    ("count cannot be 0", "the count is 0"),
    ("cannot convert number to", "the number is not one that it takes"),
    ("range has too many elements", "the range is too long"),
    ("cannot create range with step of 0", "the step is 0"),
    ("cannot slice by step size of 0", "the step is 0"),
    ("method must be", "the method is `common`, `ceil` or `floor`"),
    ("invalid float literal", "the text is no number"),
    ("cannot parse float", "the text is no number"),
    ("missing an argument for format spec", "the format takes more values"),
    ("format argument must be a mapping", "the format takes an object"),
    ("invalid conversion type", "the text is no format"),
    ("character format", "`%c` takes one sign, or its number"),
    ("incomplete format", "the text is no format"),
    ("invalid format spec", "a value is not what the format takes"),
    ("invalid integer in the format", "the text is no format"),
    ("sequence has wrong number of values", "the list has more or fewer items than there are names"),
    ("not a sequence", "it is no list, and there are several names for it"),
    ("repeated", "the text is too long"),
];

/// The messages of our own filters.
const OWN_WORDS: [&str; 7] = [
    "null is no text; use `default`",
    "a list or an object is no text; use `tojson` or one of its fields",
    "`last_text` takes a list of messages",
    "`indent` is a number",
    "the number needs more than 64 bits",
    "the key of a field is a text",
    "the value is no data",
];
