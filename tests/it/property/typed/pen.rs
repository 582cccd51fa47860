//! Writes expressions and templates of a type.

use super::{COLOURS, Env, Ty};
use crate::property::tape::Reader;

/// Writes expressions.
pub(super) struct Pen<'r, 't> {
    pub(super) tape: &'r mut Reader<'t>,
    pub(super) env: Env,
}

impl Pen<'_, '_> {
    /// A name of the type, or a field of one.
    fn path(&mut self, ty: &Ty) -> Option<String> {
        let mut all: Vec<String> = Vec::new();
        for (name, of) in &self.env {
            if of == ty {
                all.push(name.clone());
            }
            let fields = of.fields().into_iter().filter(|(_, of)| of == ty);
            all.extend(fields.map(|(field, _)| format!("{name}.{field}")));
        }
        (!all.is_empty()).then(|| all.swap_remove(self.tape.pick(all.len())))
    }

    fn literal(&mut self, ty: &Ty) -> String {
        match ty {
            Ty::Str => ["''", "'a'", "'b c'"][self.tape.pick(3)].into(),
            Ty::Int => (self.tape.pick(9)).to_string(),
            Ty::Num => ["1.5", "0.25", "2.0"][self.tape.pick(3)].into(),
            Ty::Bool => ["true", "false"][self.tape.pick(2)].into(),
            Ty::Enum => format!("'{}'", COLOURS[self.tape.pick(3)]),
            Ty::List(item) => {
                let (a, b) = (self.literal(item), self.literal(item));
                format!("[{a}, {b}]")
            }
            Ty::Opt(ty) if self.tape.pick(2) == 1 => self.literal(ty),
            Ty::Opt(_) => "none".into(),
            Ty::Rec(fields) => {
                let fields: Vec<String> =
                    fields.iter().map(|(name, ty)| format!("'{name}': {}", self.literal(ty))).collect();
                format!("{{{}}}", fields.join(", "))
            }
            // `next` may be left out, but where it is read.
            Ty::Tree if self.tape.pick(2) == 0 => "{'value': 1, 'children': []}".into(),
            Ty::Tree => format!("{{'value': {}, 'children': [], 'next': none}}", self.literal(&Ty::Int)),
        }
    }

    /// A value that has one type or another, by its branch.
    fn mixed(&mut self, ty: &Ty, depth: usize) -> String {
        let (one, other) = (self.expr(ty, depth), self.any(depth).1);
        match self.tape.pick(3) {
            0 => format!("({one} if {} else {other})", self.expr(&Ty::Bool, depth)),
            1 => format!("({other} if {} else {one})", self.expr(&Ty::Bool, depth)),
            _ => match self.path(&Ty::Opt(Box::new(ty.clone()))) {
                Some(maybe) => format!("({maybe} | default({other}))"),
                None => format!("([{one}, {other}] | {})", ["first", "last", "max"][self.tape.pick(3)]),
            },
        }
    }

    /// An expression of the type; now and then one of another, which the compiler has to find.
    pub(super) fn expr(&mut self, ty: &Ty, depth: usize) -> String {
        let choice = self.tape.byte();
        if depth > 0 && choice >= 252 {
            return self.expr(&Ty::Int, 0);
        }
        // Only what takes both branches takes it: mostly, that is for the compiler to refuse.
        if depth > 1 && choice >= 249 {
            return self.mixed(ty, depth - 1);
        }
        if depth == 0 || choice < 60 {
            let path = if choice.is_multiple_of(4) { None } else { self.path(ty) };
            return path.unwrap_or_else(|| self.literal(ty));
        }
        let depth = depth - 1;
        if choice.is_multiple_of(12) {
            let (when, yes, no) = (self.expr(&Ty::Bool, depth), self.expr(ty, depth), self.expr(ty, depth));
            return format!("({yes} if {when} else {no})");
        }
        if choice % 12 == 1 {
            let maybe = self.path(&Ty::Opt(Box::new(ty.clone())));
            if let Some(maybe) = maybe {
                let other = self.expr(ty, depth);
                return format!("({maybe} | default({other}))");
            }
        }
        if choice % 12 == 2 {
            let list = self.expr(&Ty::List(Box::new(ty.clone())), depth);
            let (pick, other) = (["first", "last"][self.tape.pick(2)], self.expr(ty, depth));
            return format!("({list} | {pick} | default({other}))");
        }
        match ty {
            Ty::Str => self.text(depth),
            Ty::Int | Ty::Num => self.number(ty, depth),
            Ty::Bool => self.truth(depth),
            Ty::Enum => self.path(ty).unwrap_or_else(|| self.literal(ty)),
            Ty::List(item) => self.list(item, depth),
            Ty::Opt(inner) => self.expr(inner, depth),
            Ty::Rec(_) | Ty::Tree => self.path(ty).unwrap_or_else(|| self.literal(ty)),
        }
    }

    fn any(&mut self, depth: usize) -> (Ty, String) {
        let ty = Ty::read(self.tape, 1);
        let text = self.expr(&ty, depth);
        (ty, text)
    }

    fn text(&mut self, depth: usize) -> String {
        let filters =
            ["upper", "lower", "trim", "title", "capitalize", "replace('a', 'bb')", "quoted", "urlencode"];
        match self.tape.pick(8) {
            0 => format!("({} ~ {})", self.expr(&Ty::Str, depth), self.expr(&Ty::Int, depth)),
            1 => format!("({} | {})", self.expr(&Ty::Str, depth), filters[self.tape.pick(8)]),
            2 if self.tape.pick(3) == 0 => {
                format!("([{}, {}] | join(', '))", self.expr(&Ty::Str, depth), self.expr(&Ty::Int, depth))
            }
            2 => format!("({} | join(', '))", self.expr(&Ty::List(Box::new(Ty::Str)), depth)),
            3 => format!("({} | string)", self.expr(&Ty::Num, depth)),
            4 if self.tape.pick(2) == 0 => {
                let ty = Ty::read(self.tape, 1);
                format!("({} | tojson)", self.mixed(&ty, depth))
            }
            4 => format!("({} | tojson)", self.any(depth).1),
            5 => format!("({} ~ {})", self.expr(&Ty::Str, depth), self.expr(&Ty::Enum, depth)),
            6 => format!("{}[:2]", self.path(&Ty::Str).unwrap_or_else(|| "run.user_text".into())),
            _ => "run.user_text".into(),
        }
    }

    fn number(&mut self, ty: &Ty, depth: usize) -> String {
        let item = || Ty::List(Box::new(ty.clone()));
        match self.tape.pick(9) {
            n @ 0..=2 => {
                let sign = ["+", "-", "*"][n];
                format!("({} {sign} {})", self.expr(ty, depth), self.expr(ty, depth))
            }
            3 if *ty == Ty::Int => format!("({} // 3)", self.expr(ty, depth)),
            3 => format!("({} / 2)", self.expr(ty, depth)),
            4 => format!("({} % 5)", self.expr(ty, depth)),
            5 => format!("({} | abs)", self.expr(ty, depth)),
            6 => format!("({} | sum)", self.expr(&item(), depth)),
            7 if self.tape.pick(2) == 0 => {
                format!("([{}, {}] | max)", self.expr(ty, depth), self.expr(ty, depth))
            }
            7 => format!("([{}, {}] | max | default(1))", self.expr(ty, depth), self.expr(ty, depth)),
            _ if *ty == Ty::Num => format!("({} | round(1))", self.expr(ty, depth)),
            _ => {
                let ty = Ty::read(self.tape, 0);
                format!("({} | length)", self.expr(&Ty::List(Box::new(ty)), depth))
            }
        }
    }

    fn truth(&mut self, depth: usize) -> String {
        let scalar = [Ty::Str, Ty::Int, Ty::Num, Ty::Bool, Ty::Enum][self.tape.pick(5)].clone();
        match self.tape.pick(10) {
            n @ 0..=1 => {
                let sign = ["==", "!="][n];
                format!("({} {sign} {})", self.expr(&scalar, depth), self.expr(&scalar, depth))
            }
            n @ 2..=3 => {
                let (ty, sign) = ([Ty::Int, Ty::Num][self.tape.pick(2)].clone(), ["<", ">="][n - 2]);
                format!("({} {sign} {})", self.expr(&ty, depth), self.expr(&ty, depth))
            }
            4 => format!("(not {})", self.expr(&Ty::Bool, depth)),
            7 if self.tape.pick(3) == 0 => {
                let (item, other) = (self.expr(&scalar, depth), self.any(depth).1);
                format!("({item} in [{}, {other}])", self.expr(&scalar, depth))
            }
            n @ 5..=6 => {
                let word = ["and", "or"][n - 5];
                format!("({} {word} {})", self.expr(&Ty::Bool, depth), self.expr(&Ty::Bool, depth))
            }
            7 => {
                let list = self.expr(&Ty::List(Box::new(scalar.clone())), depth);
                format!("({} in {list})", self.expr(&scalar, depth))
            }
            8 => match self.path(&Ty::Opt(Box::new(scalar.clone()))) {
                Some(maybe) => format!("({maybe} is not none and {maybe} == {})", self.expr(&scalar, depth)),
                None => format!("({} is even)", self.expr(&Ty::Int, depth)),
            },
            _ => format!("({} is startingwith 'a')", self.expr(&Ty::Str, depth)),
        }
    }

    fn list(&mut self, item: &Ty, depth: usize) -> String {
        let ty = Ty::List(Box::new(item.clone()));
        match self.tape.pick(8) {
            0 => format!("[{}, {}]", self.expr(item, depth), self.expr(item, depth)),
            1 => format!("({} + {})", self.expr(&ty, depth), self.expr(&ty, depth)),
            2 => format!("{}[1:]", self.path(&ty).unwrap_or_else(|| self.literal(&ty))),
            3 => format!("({} | reverse)", self.expr(&ty, depth)),
            4 if item.is_scalar() => format!("({} | unique)", self.expr(&ty, depth)),
            5 if item.is_scalar() && *item != Ty::Bool => format!("({} | sort)", self.expr(&ty, depth)),
            6 if *item == Ty::Str && self.tape.pick(2) == 0 => {
                let (text, other) = (self.expr(item, depth), self.expr(&Ty::Int, depth));
                format!("([{text}, {other}] | select('string') | list)")
            }
            6 if *item == Ty::Str => format!("({} | split(' '))", self.expr(&Ty::Str, depth)),
            6 if *item == Ty::Int => format!("range({})", self.tape.pick(4)),
            7 if *item == Ty::Str => format!("({} | map('upper'))", self.expr(&ty, depth)),
            7 if *item == Ty::Int => format!("({} | select('odd'))", self.expr(&ty, depth)),
            _ => self.path(&ty).unwrap_or_else(|| self.literal(&ty)),
        }
    }

    /// Something to print.
    fn shown(&mut self, depth: usize) -> String {
        match self.any(depth) {
            (ty, text) if ty.is_scalar() => text,
            (_, text) => format!("{text} | tojson"),
        }
    }

    pub(super) fn template(&mut self) -> String {
        let mut out = String::from("Say");
        for _ in 0..=self.tape.pick(2) {
            let piece = match self.tape.pick(4) {
                0 => format!(" {{{{ {} }}}}", self.shown(2)),
                1 => {
                    let when = self.expr(&Ty::Bool, 1);
                    let (yes, no) = (self.shown(1), self.shown(1));
                    format!("{{% if {when} %}} {{{{ {yes} }}}}{{% else %}} {{{{ {no} }}}}{{% endif %}}")
                }
                2 => {
                    let item = Ty::read(self.tape, 1);
                    let list = self.expr(&Ty::List(Box::new(item.clone())), 1);
                    self.env.push(("each".into(), item));
                    let shown = self.shown(1);
                    self.env.pop();
                    format!("{{% for each in {list} %}} {{{{ {shown} }}}}{{% endfor %}}")
                }
                _ => {
                    let (ty, value) = self.any(1);
                    self.env.push(("kept".into(), ty));
                    let shown = self.shown(1);
                    self.env.pop();
                    format!("{{% set kept = {value} %}} {{{{ {shown} }}}}")
                }
            };
            out += &piece;
        }
        out + "."
    }
}
