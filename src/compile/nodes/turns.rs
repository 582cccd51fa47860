//! What is sent to a model as turns, against what its provider takes.

use crate::compile::models::Model;
use crate::compile::names::Names;
use crate::diagnostic::{Bag, Diagnostic, Span};
use crate::expr::Facts;
use crate::model::Role;
use crate::node::Piece;
use crate::spec::LlmSpec;
use crate::state::Type;

/// Checks that somebody asks where a provider answers nothing else; false: the bag says it.
pub(super) fn check_order(pieces: &[Piece], at: Span, chain: &[&Model], bag: &mut Bag) -> bool {
    let asks = |piece: &Piece| !matches!(piece, Piece::Turn(Role::System | Role::Assistant, _));
    let Some(model) = chain.iter().find(|model| model.provider == "anthropic") else { return true };
    if bag.is_trusting() || pieces.iter().any(asks) {
        return true;
    }
    let message = "a prompt without a turn of the user";
    let label = format!("`{}` is a model of `anthropic`, which would refuse it", model.name.value);
    let finding = Diagnostic::error("M502", message, at, label);
    bag.report(finding.help("put what is asked below  @user , or add  @messages NAME"));
    false
}

/// Checks that no images go to a model that takes none, as far as the file shows them; false: the bag says it.
pub(super) fn check_images(names: &Names, llm: &LlmSpec, chain: &[&Model], bag: &mut Bag) -> bool {
    let Some(lacks) = chain.iter().position(|model| !model.images) else { return true };
    let mut fine = true;
    for (_, value) in &llm.with {
        if bag.is_trusting() || !holds_image(&names.type_of_spec(value, &Facts::default()).ty) {
            continue;
        }
        let message = match lacks {
            0 => "the model takes no images".to_owned(),
            nth => format!("`{}`, which stands in for the model, takes no images", chain[nth].name.value),
        };
        let finding = Diagnostic::error("M508", message, value.span(), "its `supports` lacks `images`");
        bag.report(finding.help("choose another model, or add `images` to its `supports`"));
        fine = false;
    }
    fine
}

/// Says whether a part of a message with an image is written out in a value.
fn holds_image(ty: &Type) -> bool {
    match ty {
        Type::List(item) | Type::Nullable(item) => holds_image(item),
        Type::Union(all) => all.iter().any(holds_image),
        Type::Record(fields) => {
            let sort = fields.get("type").map(|field| &field.ty);
            matches!(sort, Some(Type::Enum(words)) if words.iter().any(|word| word == "image"))
                || fields.values().any(|field| holds_image(&field.ty))
        }
        _ => false,
    }
}
