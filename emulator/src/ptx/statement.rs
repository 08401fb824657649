//! Parses tokens into statements.

use super::error::{LoadError, Result};
use super::lexer::{Placed, Token, number, tokens};
use super::syntax::{Declaration, Function, Loc, Raw, RawInstruction, RawModule, Statement};
use crate::ir::Ty;

/// A parser at a position of the tokens.
struct Parser<'a> {
    source: &'a str,
    tokens: Vec<Placed<'a>>,
    at: usize,
}

/// Returns the statements of a module.
pub(super) fn parse(source: &str) -> Result<RawModule<'_>> {
    let mut parser = Parser { source, tokens: tokens(source)?, at: 0 };
    let mut module = RawModule::default();
    while parser.at < parser.tokens.len() {
        parser.top_level(&mut module)?;
    }
    Ok(module)
}

impl<'a> Parser<'a> {
    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(0, |t| t.line)
    }

    fn error<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(LoadError::new(self.line(), message))
    }

    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).map(|t| t.token)
    }

    fn accept(&mut self, mark: u8) -> bool {
        let found = self.peek() == Some(Token::Mark(mark));
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, mark: u8) -> Result<()> {
        if self.accept(mark) {
            Ok(())
        } else {
            self.error(format!("'{}' expected", char::from(mark)))
        }
    }

    fn word(&mut self) -> Result<&'a str> {
        match self.peek() {
            Some(Token::Word(word)) => {
                self.at += 1;
                Ok(word)
            }
            other => self.error(format!("a name expected, not {other:?}")),
        }
    }

    fn accept_word(&mut self, wanted: &str) -> bool {
        let found = self.peek() == Some(Token::Word(wanted));
        self.at += usize::from(found);
        found
    }

    fn integer(&mut self) -> Result<u64> {
        let negative = self.accept(b'-');
        let word = self.word()?;
        let value = number(word)
            .ok_or_else(|| LoadError::new(self.line(), format!("{word} is no number")))?;
        Ok(if negative { value.wrapping_neg() } else { value })
    }

    fn skip_past(&mut self, mark: u8) {
        while self.at < self.tokens.len() && !self.accept(mark) {
            self.at += 1;
        }
    }

    fn skip_braces(&mut self) {
        let mut depth = 0;
        while let Some(token) = self.peek() {
            self.at += 1;
            match token {
                Token::Mark(b'{') => depth += 1,
                Token::Mark(b'}') => {
                    depth -= 1;
                    if depth == 0 {
                        return;
                    }
                }
                _ => {}
            }
        }
    }

    fn top_level(&mut self, module: &mut RawModule<'a>) -> Result<()> {
        let word = match self.peek() {
            Some(Token::Word(word)) => word,
            _ => return self.error("a directive expected"),
        };
        match word {
            ".global" | ".const" | ".shared" => {
                let declaration = self.declaration()?;
                module.variables.push(declaration);
                return self.expect(b';');
            }
            _ => self.at += 1,
        }
        match word {
            ".version" => {
                let parts = self
                    .word()?
                    .split_once('.')
                    .map(|(major, minor)| (major.parse(), minor.parse()));
                let Some((Ok(major), Ok(minor))) = parts else {
                    return self.error("a version expected");
                };
                module.version = (major, minor);
            }
            ".address_size" => {
                if self.word()? != "64" {
                    return self.error("addresses of 64 bits expected");
                }
            }
            ".target" => {
                let name = self.word()?;
                let digits: String = name.chars().filter(char::is_ascii_digit).collect();
                module.target = digits.parse().unwrap_or(0);
                module.is_exact = name.ends_with('a');
                while self.accept(b',') {
                    self.word()?;
                }
            }
            ".file" => {
                let index = self.integer()? as u32;
                let Some(Token::Text(name)) = self.peek() else {
                    return self.error("the name of a file expected");
                };
                self.at += 1;
                module.files.push((index, name));
                while self.accept(b',') {
                    self.word()?;
                }
            }
            ".section" => {
                self.word()?;
                self.skip_braces();
            }
            ".visible" | ".extern" | ".weak" | ".common" => {}
            ".pragma" | ".alias" => self.skip_past(b';'),
            ".entry" | ".func" => {
                let function = self.function(word == ".entry")?;
                module.functions.push(function);
            }
            _ => return self.error(format!("directive {word} is not supported")),
        }
        Ok(())
    }

    fn function(&mut self, entry: bool) -> Result<Function<'a>> {
        let mut function = Function { entry, line: self.line(), ..Function::default() };
        self.accept_word(".noreturn");
        if !entry && self.peek() == Some(Token::Mark(b'(')) {
            function.returns = self.parameters()?;
        }
        function.name = self.word()?;
        if self.peek() == Some(Token::Mark(b'(')) {
            function.params = self.parameters()?;
        }
        loop {
            match self.peek() {
                Some(Token::Mark(b'{')) => {
                    self.at += 1;
                    function.body = Some(self.body()?);
                    return Ok(function);
                }
                Some(Token::Mark(b';')) => {
                    self.at += 1;
                    return Ok(function);
                }
                Some(Token::Word(name @ (".maxntid" | ".reqntid"))) => {
                    self.at += 1;
                    let mut sizes = [1; 3];
                    sizes[0] = self.integer()? as u32;
                    for size in &mut sizes[1..] {
                        if self.accept(b',') {
                            *size = self.integer()? as u32;
                        }
                    }
                    let place = if name == ".maxntid" {
                        &mut function.max_threads
                    } else {
                        &mut function.exact_threads
                    };
                    *place = Some(sizes);
                }
                Some(Token::Word(".pragma")) => self.skip_past(b';'),
                Some(_) => self.at += 1,
                None => return self.error(format!("{} has no body", function.name)),
            }
        }
    }

    fn parameters(&mut self) -> Result<Vec<Declaration<'a>>> {
        self.expect(b'(')?;
        let mut out = vec![];
        while !self.accept(b')') {
            out.push(self.declaration()?);
            self.accept(b',');
        }
        Ok(out)
    }

    /// Parses a declaration, such as `.param .align 8 .b8 name[40]`,
    /// `.param .u64 .ptr .align 1 name`, `.reg .b32 %r<5>` or `.global .u32 x = 3`.
    fn declaration(&mut self) -> Result<Declaration<'a>> {
        let line = self.line();
        let space = self.word()?.trim_start_matches('.');
        let (mut align, mut pointer, mut ty) = (None, false, None);
        let name = loop {
            let word = self.word()?;
            match word {
                ".align" => {
                    let value = self.integer()? as usize;
                    // After `.ptr` this is the alignment of the memory that the pointer points to.
                    if !pointer {
                        align = Some(value);
                    }
                }
                ".ptr" => pointer = true,
                ".attribute" => self.skip_past(b')'),
                _ if word.starts_with('.') => {
                    if let Some(named) = Ty::parse(&word[1..]) {
                        ty = Some(named);
                    }
                }
                _ => break word,
            }
        };
        let ty = ty
            .ok_or_else(|| LoadError::new(line, format!("{name} has no type that is supported")))?;
        let align = align.unwrap_or(ty.size());
        let mut out = Declaration {
            space,
            name,
            line,
            align,
            ty,
            count: Some(1),
            array: false,
            range: None,
            bytes: vec![],
        };
        if self.accept(b'<') {
            out.range = Some(self.integer()? as u32);
            self.expect(b'>')?;
        }
        while self.accept(b'[') {
            out.array = true;
            if self.accept(b']') {
                out.count = None;
            } else {
                let length = self.integer()? as usize;
                out.count = out.count.map(|n| n * length);
                self.expect(b']')?;
            }
        }
        if self.accept(b'=') {
            self.initial_value(&mut out)?;
        }
        Ok(out)
    }

    fn initial_value(&mut self, out: &mut Declaration<'a>) -> Result<()> {
        if self.accept(b'{') {
            while !self.accept(b'}') {
                self.initial_value(out)?;
                self.accept(b',');
            }
            return Ok(());
        }
        let value = self.integer()?;
        out.bytes.extend_from_slice(&value.to_le_bytes()[..out.ty.size()]);
        Ok(())
    }

    fn body(&mut self) -> Result<Vec<Statement<'a>>> {
        let mut out = vec![];
        let mut depth = 1;
        loop {
            let Some(placed) = self.tokens.get(self.at).copied() else {
                return self.error("a function without an end");
            };
            match placed.token {
                Token::Mark(b'{') => {
                    self.at += 1;
                    depth += 1;
                    out.push(Statement::Open);
                }
                Token::Mark(b'}') => {
                    self.at += 1;
                    depth -= 1;
                    if depth == 0 {
                        return Ok(out);
                    }
                    out.push(Statement::Close);
                }
                Token::Mark(b';') => self.at += 1,
                Token::Word(".loc") => out.push(Statement::Loc(self.loc()?)),
                Token::Word(".pragma") => self.skip_past(b';'),
                Token::Word(".reg" | ".shared" | ".local" | ".param" | ".global" | ".const") => {
                    let first = self.declaration()?;
                    out.push(Statement::Declare(first.clone()));
                    while self.accept(b',') {
                        let name = self.word()?;
                        out.push(Statement::Declare(Declaration {
                            name,
                            range: None,
                            ..first.clone()
                        }));
                    }
                    self.expect(b';')?;
                }
                Token::Word(label)
                    if self.tokens.get(self.at + 1).map(|t| t.token) == Some(Token::Mark(b':')) =>
                {
                    self.at += 2;
                    if self.accept_word(".branchtargets") {
                        let mut targets = vec![self.word()?];
                        while self.accept(b',') {
                            targets.push(self.word()?);
                        }
                        out.push(Statement::Targets(label, targets));
                    } else if self.accept_word(".callprototype") {
                        self.skip_past(b';');
                    } else {
                        out.push(Statement::Label(label));
                    }
                }
                _ => out.push(Statement::Instruction(self.instruction(placed)?)),
            }
        }
    }

    fn loc(&mut self) -> Result<Loc> {
        let line = self.line();
        self.at += 1;
        let mut loc =
            Loc { file: self.integer()? as u32, line: self.integer()? as u32, caller: None };
        while self.at < self.tokens.len() && self.line() == line {
            if self.accept_word("inlined_at") {
                loc.caller = Some((self.integer()? as u32, self.integer()? as u32));
            } else {
                self.at += 1;
            }
        }
        Ok(loc)
    }

    fn instruction(&mut self, first: Placed<'a>) -> Result<RawInstruction<'a>> {
        let guard = if self.accept(b'@') {
            let negated = self.accept(b'!');
            Some((self.word()?, negated))
        } else {
            None
        };
        let opcode = self.word()?;
        let mut operands = vec![];
        while self.peek() != Some(Token::Mark(b';')) {
            operands.push(self.operand()?);
            if !self.accept(b',') && self.peek() != Some(Token::Mark(b';')) {
                return self.error(format!("{opcode}: ';' expected"));
            }
        }
        let end = self.tokens.get(self.at).map_or(self.source.len(), |t| t.start);
        self.at += 1;
        Ok(RawInstruction {
            line: first.line,
            text: self.source[first.start..end].trim(),
            guard,
            opcode,
            operands,
        })
    }

    fn operand(&mut self) -> Result<Raw<'a>> {
        let first = match self.peek() {
            Some(Token::Mark(b'{')) => Raw::Vector(self.list(b'}')?),
            Some(Token::Mark(b'(')) => Raw::Group(self.list(b')')?),
            Some(Token::Mark(b'[')) => {
                self.at += 1;
                let base = self.operand()?;
                self.expect(b']')?;
                match base {
                    Raw::Sum(name, offset) => Raw::Address(Box::new(Raw::Name(name)), offset),
                    other => Raw::Address(Box::new(other), 0),
                }
            }
            Some(Token::Mark(b'!')) => {
                self.at += 1;
                Raw::Negated(self.word()?)
            }
            Some(Token::Mark(b'-')) => Raw::Number(self.integer()?),
            Some(Token::Word(word)) => {
                self.at += 1;
                match number(word) {
                    Some(value) => Raw::Number(value),
                    None if self.accept(b'+') => Raw::Sum(word, self.integer()?),
                    None if self.peek() == Some(Token::Mark(b'-')) => {
                        Raw::Sum(word, self.integer()?)
                    }
                    None => Raw::Name(word),
                }
            }
            other => return self.error(format!("an operand expected, not {other:?}")),
        };
        if self.accept(b'|') {
            Ok(Raw::Pair(Box::new(first), Box::new(self.operand()?)))
        } else {
            Ok(first)
        }
    }

    fn list(&mut self, end: u8) -> Result<Vec<Raw<'a>>> {
        self.at += 1;
        let mut out = vec![];
        while !self.accept(end) {
            out.push(self.operand()?);
            if !self.accept(b',') && self.peek() != Some(Token::Mark(end)) {
                return self.error("',' expected");
            }
        }
        Ok(out)
    }
}
