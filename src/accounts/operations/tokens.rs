//! Tokens: made, shown, revoked.

use std::time::Duration;

use crate::accounts::change::Change;
use crate::accounts::credentials::token;
use crate::accounts::model::{Id, Token, TokenScope, UnixMs};
use crate::accounts::names::Name;
use crate::accounts::operations::enact::Note;
use crate::accounts::operations::users::find;
use crate::accounts::operations::views::{TokenView, time_text};
use crate::accounts::operations::{
    OperationError, OperationErrorKind, Operations, Outcome, TokenMade,
};
use crate::accounts::service::calendar::Moment;
use crate::limits::TOKEN_LABEL_LEN_MAX;

impl Operations<'_> {
    pub(super) fn create_token(
        &self,
        user: &Name,
        label: String,
        scope: TokenScope,
        lasts: Option<Duration>,
    ) -> Result<Outcome, OperationError> {
        let is_printable = !label.chars().any(char::is_control);
        if label.len() > TOKEN_LABEL_LEN_MAX || !is_printable {
            let message = format!("a label has at most {TOKEN_LABEL_LEN_MAX} printable characters");
            return Err(OperationError::invalid(message));
        }
        if scope == TokenScope::Device {
            return Err(OperationError::invalid("a device gets its token when it is invited"));
        }
        if scope == TokenScope::Invite && lasts.is_none() {
            return Err(OperationError::invalid("an invite has to expire (`--expires 24h`)"));
        }
        let _turn = self.begin();
        let mut rng = rand::rng();
        let (secret, hash) = token::generate(&mut rng);
        let state = self.accounts.shared().state();
        let owner = find(&state, user)?;
        if scope == TokenScope::Invite && owner.disabled {
            let message = format!("{user} is disabled (`corelane user enable {user}`)");
            return Err(OperationError::invalid(message));
        }
        let now = Moment::now().unix;
        let expires = lasts.map(|lasts| {
            let lasts = i64::try_from(lasts.as_millis()).unwrap_or(i64::MAX);
            UnixMs(now.0.saturating_add(lasts))
        });
        let token = Token {
            id: Id::generate(&mut rng),
            user: owner.id,
            hash,
            label,
            scope,
            device: None,
            created: now,
            expires,
            last_used: None,
        };
        let id = token.id;
        let note = Note {
            action: if scope == TokenScope::Invite { "invited" } else { "token_created" },
            subject: user.to_string(),
            detail: format!(
                "token {} ({}), expires {}",
                id.0,
                token.label,
                expires.map_or_else(|| "never".to_owned(), time_text)
            ),
        };
        let done = self.enact(state, vec![Change::PutToken(token)], note)?;
        Ok(Outcome::Token(TokenMade {
            user: user.clone(),
            id,
            token: secret,
            expires: expires.map(time_text),
            expires_unix_s: expires.and_then(|expires| u64::try_from(expires.0 / 1000).ok()),
            done,
        }))
    }

    pub(super) fn tokens(&self, user: Option<&Name>) -> Result<Outcome, OperationError> {
        let state = self.accounts.shared().state();
        let book = state.book();
        let mut tokens: Vec<_> = match user {
            Some(user) => book.tokens_of(find(&state, user)?.id).collect(),
            None => book.known().tokens.values().collect(),
        };
        tokens.sort_by_key(|token| (token.user, token.created, token.id));
        let views = tokens.into_iter().map(|token| TokenView::new(book, token));
        Ok(Outcome::Tokens(views.collect()))
    }

    pub(super) fn revoke_token(&self, token: Id) -> Result<Outcome, OperationError> {
        let _turn = self.begin();
        let state = self.accounts.shared().state();
        let known = state.book().token(token).ok_or_else(|| {
            let message = format!("there is no token {} (`corelane token ls`)", token.0);
            OperationError::new(OperationErrorKind::NotFound, message)
        })?;
        let user = state.book().user(known.user).map(|user| user.name.to_string());
        let note = Note {
            action: "token_revoked",
            subject: user.unwrap_or_else(|| "(gone)".to_owned()),
            detail: format!("token {} ({})", token.0, known.label),
        };
        self.enact(state, vec![Change::DeleteToken(token)], note).map(Outcome::Done)
    }
}
