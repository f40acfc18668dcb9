//! Groups: made, shown, changed, removed.

use crate::accounts::change::Change;
use crate::accounts::model::Group;
use crate::accounts::names::Name;
use crate::accounts::operations::enact::Note;
use crate::accounts::operations::views::GroupView;
use crate::accounts::operations::{
    LimitChanges, Operation, OperationError, OperationErrorKind, Operations, Outcome,
};
use crate::accounts::service::State;
use crate::policy::bounds::Bounds;

impl Operations<'_> {
    /// Those operations that are about groups.
    pub(super) fn group(&self, operation: Operation) -> Result<Outcome, OperationError> {
        match operation {
            Operation::GroupAdd { name, limits } => self.add_group(name, &limits),
            Operation::GroupList {} => Ok(self.groups()),
            Operation::GroupShow { name } => self.show_group(&name),
            Operation::GroupSet { name, limits } => self.set_group(&name, &limits),
            Operation::GroupRemove { name } => self.remove_group(&name),
            _ => Err(OperationError::invalid("this is not about groups")),
        }
    }

    fn add_group(&self, name: Name, limits: &LimitChanges) -> Result<Outcome, OperationError> {
        let _turn = self.begin();
        let state = self.accounts.shared().state();
        if state.book().group(&name).is_some() {
            let message = format!("there is a group {name} already (`corelane group show {name}`)");
            return Err(OperationError::new(OperationErrorKind::Exists, message));
        }
        let note = note("group_added", &name, limits);
        let mut group = Group { name, bounds: Bounds::default(), acl: Vec::new() };
        limits.apply(&mut group.bounds, &mut group.acl);
        self.enact(state, vec![Change::PutGroup(group)], note).map(Outcome::Done)
    }

    fn groups(&self) -> Outcome {
        let state = self.accounts.shared().state();
        let groups = state.book().known().groups.values();
        Outcome::Groups(groups.map(|group| GroupView::new(state.book(), group)).collect())
    }

    fn show_group(&self, name: &Name) -> Result<Outcome, OperationError> {
        let state = self.accounts.shared().state();
        let group = find(&state, name)?;
        Ok(Outcome::Group(Box::new(GroupView::new(state.book(), group))))
    }

    fn set_group(&self, name: &Name, limits: &LimitChanges) -> Result<Outcome, OperationError> {
        let _turn = self.begin();
        let state = self.accounts.shared().state();
        let mut group = find(&state, name)?.clone();
        limits.apply(&mut group.bounds, &mut group.acl);
        let note = note("group_changed", name, limits);
        self.enact(state, vec![Change::PutGroup(group)], note).map(Outcome::Done)
    }

    fn remove_group(&self, name: &Name) -> Result<Outcome, OperationError> {
        let _turn = self.begin();
        let state = self.accounts.shared().state();
        find(&state, name)?;
        let note = note("group_removed", name, &LimitChanges::default());
        self.enact(state, vec![Change::DeleteGroup(name.clone())], note).map(Outcome::Done)
    }
}

fn note(action: &'static str, name: &Name, limits: &LimitChanges) -> Note {
    Note { action, subject: name.to_string(), detail: limits.text() }
}

fn find<'a>(state: &'a State, name: &Name) -> Result<&'a Group, OperationError> {
    state.book().group(name).ok_or_else(|| OperationError::no_group(name))
}
