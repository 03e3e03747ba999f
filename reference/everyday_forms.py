"""Everyday request templates with slots; the slot names are keys of `grammar.SLOTS`."""

from __future__ import annotations

CREATIVE_FORMS: tuple[str, ...] = (
    "Write {kind} about {subject}", "Write {kind} about {subject}.", "Compose {kind} about {subject}.", "Create {kind} about {subject}", "Give me {kind} about {subject}.",
    "Can you write {kind} about {subject}?", "Tell me {kind} about {subject}", "Please write {kind} on {subject}.", "Generate {kind} about {subject}",
    "I need {kind} about {subject}.", "Make up {kind} about {subject}", "Write {kind} in {lang} about {subject}.", "Write {kind} for {name} about {subject}",
    "Draft {kind} for a {job} about {subject}.", "Write me {kind} that mentions {subject} and {subject2}.", "Invent {kind} with {subject} in it",
    "Write {kind} in the style of {famous}", "Write {kind} to {name} about {subject}", "Turn this into {kind}: {sentence}", "Improve {kind} about {subject}",
    "Help me with {kind} about {subject}", "Share {kind} about {subject}.", "Write {kind} comparing {subject} and {subject2}", "Outline {kind} about {subject}",
)

LIST_FORMS: tuple[str, ...] = (
    "List {num} {listkind} {subject}.", "List {num} {listkind} {subject}", "Give me {num} {listkind} {subject}", "Name {num} {listkind} {subject}.", "What are {num} {listkind} {subject}?",
    "Suggest {num} {listkind} {subject}.", "Can you list {num} {listkind} {subject}?", "Brainstorm {num} {listkind} {subject}", "Provide {num} {listkind} {subject}.",
    "Come up with {num} {listkind} {subject}", "I need {num} {listkind} {subject}.", "Tell me {num} {listkind} {subject}", "Recommend {num} {listkind} {subject}.",
    "Make a list of {num} {listkind} {subject}", "Think of {num} {listkind} {subject}.", "Generate {num} {listkind} {subject}", "Show me {num} {listkind} {subject}",
)

QUESTION_TEMPLATES: tuple[str, ...] = (
    "What is the capital of {place}?", "What is {a_thing}?", "What does the word {thing} mean?", "Define {thing}.", "Define the term {thing}", "How does {a_thing} work?", "Who was {famous}?",
    "When was {famous} born?", "Why is {famous} famous?", "Why do {animals} {verb}?", "How long do {animals} live?", "What do {animals} eat?", "Where do {animals} live?", "Do {animals} {verb}?",
    "How far is it from {place} to {place2}?", "What is the weather like in {place} in spring?", "What language is spoken in {place}?", "How many people live in {place}?",
    "What time is it in {place}?", "What is {n1} plus {n2}?", "What is {n1} times {n2}?", "Divide {n1} by {n2}.", "What is {n1} percent of {n2}?", "Is {n1} a prime number?",
    "Convert {n1} miles to kilometers.", "Convert {n1} degrees Celsius to Fahrenheit", "How many grams are in {n1} cups?", "If {name} has {n1} apples and gives {n2} to {name2}, how many are left?",
    "What is the difference between {a_thing} and {a_thing2}?", "Compare {subject} and {subject2}.", "Compare {place} and {place2} for a holiday", "Which is better, {food} or {food2}?",
    "What should I cook with {food} and {food2}?", "Give me a recipe for {food}.", "Suggest a {adj} dinner with {food}", "Plan a dinner with {food} for {n1} guests.", "What goes well with {food}?",
    "Translate \"{sentence}\" into {lang}.", "Translate into {lang}: {sentence}", "How do you say \"{word}\" in {lang}?", "What is the {lang} word for {thing}?", "Rewrite this sentence in a {adj} tone: {sentence}",
    "Correct the grammar: {sentence}", "Fix the spelling: {sentence}", "Summarize this: {sentence} {sentence2}", "Make this sentence more {adj}: {sentence}", "Is this sentence positive or negative? {sentence}",
    "Find the verb in this sentence: {sentence}", "Rephrase: {sentence}", "Shorten this text: {sentence} {sentence2}", "Change this to the past tense: {sentence}", "Continue the story: {sentence}",
    "Classify the sentiment of this review: {sentence}", "What is the main idea of this text? {sentence} {sentence2}", "Give a {adj} title to this text: {sentence}",
    "Write a {code} function that adds {n1} and {n2}.", "Write a {code} program that prints {word}", "How do I read a file in {code}?", "What does this {code} error mean?", "Explain loops in {code}",
    "Debug my {code} code: it prints {n1} instead of {n2}.", "Write a regular expression for {word}", "How do I sort a list in {code}?", "Which editor is good for {code}?", "Write a unit test in {code} for a {thing} class",
    "What does a {job} do?", "How do I become a {job}?", "Write a job ad for a {job} in {place}.", "Write a cover letter for a {job}.", "Interview questions for a {job}", "What skills does a {job} need?",
    "Describe {a_thing} to a child.", "Describe a day in the life of a {job}", "Explain {subject} to a five year old.", "Explain {subject} like I am five", "Explain what {a_thing} is in one sentence.",
    "What is your favorite {thing}?", "What do you think about {subject}?", "Tell me about {place}.", "Tell me a {adj} joke about {animals}.", "Tell me something interesting about {subject}",
    "Recommend a {adj} book about {subject}.", "Recommend a {adj} restaurant in {place}", "What should I see in {place}?", "Plan a weekend in {place}.", "Plan a {n1} day trip to {place} for my family",
    "What should I pack for {place}?", "Is {place} expensive?", "Draft a {adj} email to {name} about {subject}.", "Write a {adj} message to {name} for the birthday", "Reply to {name}: {sentence}",
    "Write a thank you note to {name} for the {thing}", "Remind me to call {name}", "Suggest a name for a {adj} {thing} shop", "Name a {adj} song about {subject}.", "Give me a synonym for {word}.", "Use the word {word} in a sentence.",
    "What rhymes with {word}?", "Spell {word} backwards.", "How many letters are in {word}?", "Give me an antonym of {adj}.", "Put these words in alphabetical order: {word}, {word2}, {thing}, {thing2}",
    "Sort these numbers: {n1}, {n2}, {n3}", "What comes next: {n1}, {n2}, {n3}?", "Which of these is an animal: {thing}, {thing2}?", "Is {thing} a noun or a verb?", "Who invented the {thing}?", "When was the {thing} invented?",
    "Why is {subject} important?", "What are the benefits of {subject}?", "What are the pros and cons of {subject}?", "Discuss {subject}.", "Summarize the history of {place}", "What happened in {place} in {year}?", "Give an overview of {subject}",
    "How can I learn {lang} quickly?", "Teach me three words in {lang}", "Write a dialogue between a {job} and a {job2}", "Imagine you are a {job}. Describe your morning.", "Pretend you are {famous} and greet me",
    "Act as a {job} and give me advice about {subject}", "Create a quiz about {subject} with {n1} questions.", "Make a table of {animals} and what they eat", "Create a {adj} workout for {n1} minutes", "Design a {adj} logo for {name}",
    "Generate a random {thing} name", "Give me a fun fact about {animals}", "What is the best {thing} for a {job}?", "Find a rhyme for {word} and {word2}", "Edit this: {sentence}", "Proofread: {sentence} {sentence2}",
    "Extract the names from this text: {name} met {name2} in {place}.", "What day is it when {name} visits {place}?", "{name} is taller than {name2}. Who is shorter?", "True or false: {animals} {verb}.",
    "Write the number {n1} in words", "Round {n1}.{n2} to one decimal", "What is the {thing} of {place}?", "I feel {adj} today. What should I do?", "I bought a {thing} in {place}. How do I take care of it?",
    "My {thing} is broken. What now?", "My name is {name}. Write me a {adj} greeting.", "I am a {job} from {place}. Introduce me in one sentence", "Give feedback on this sentence: {sentence}",
    "Help me name my {thing}", "Help me understand {a_thing}", "Identify the odd one out: {thing}, {thing2}, {animals}", "Categorize these items: {thing}, {food}, {animals}", "Rank these foods: {food}, {food2}",
    "Answer in one word: is {place} a city?", "Count the words: {sentence}", "Create a metaphor for {subject}", "Construct a sentence with {word} and {word2}", "Predict how {subject} will change by {year}", "Arrange a schedule for {name} and {name2}",
    "Determine whether {n1} is larger than {n2}", "Evaluate this argument: {sentence}", "Select the best title for a book about {subject}", "Combine these sentences: {sentence} {sentence2}", "Simulate a chat with a {job}", "Calculate {n1} + {n2} - {n3}",
    "Organize a {adj} party for {name}", "Develop a {adj} character for a story about {subject}", "Provide a {adj} summary of {subject}", "Give an example of {a_thing}", "Write instructions for making {food}", "Outline a course about {subject}",
    "Explain why {animals} {verb}.", "Describe {place} in {num} words", "Describe the taste of {food}", "Describe how {food} is made", "Create a shopping list for {food} and {food2}", "Write a menu with {food}, {food2} and tea",
    "Develop a lesson plan about {subject} for a {job}", "Create a marketing plan for a {thing} shop in {place}", "Develop a simple app about {subject}", "Write a speech for a {job} about {subject}", "Provide advice for a new {job}",
)

SMALL_TALK: tuple[str, ...] = tuple(
    ("Hello!|Hi|Hey there|Hello|Good morning|Good evening!|How are you?|What's up?|Who are you?|What is your name?|What can you do?|Thanks!|Thank you very much|Nice to meet you|Bye|See you tomorrow|Tell me something nice|"
     "I'm bored|I'm tired today|Can you help me?|Are you a robot?|Do you speak English?|Good night|Ok|Yes|No|Sure|Great, thanks|That was helpful|Tell me a joke|Hello, how are you?|How's it going?|hey|hi there!|"
     "Sing a song|Surprise me|What day is today?|Where are you from?|How old are you?|Do you like music?|You are great|I have a question|Help|Let's talk|I need some advice|Test|Ping|Happy birthday!|Merry Christmas|Welcome back|"
     "What should I do today?|Make me laugh|Say hello|Say something in French|Count to three|Tell me about yourself|Cheer me up|Hello there, assistant!|Good afternoon|how are you doing today?|I love you|Are you there?").split("|")
)
SMALL_TALK_REPLIES: tuple[str, ...] = (
    "Hello! I am a small assistant. What would you like to talk about today?", "Hi there! It is nice to hear from you. How can I help?", "Hello! I am doing well, thank you. What can I do for you?",
    "Good to see you! Ask me anything simple and I will do my best.", "I am a small helper for short answers. Tell me what you need.", "You are welcome! Just say so if you need anything else.",
    "Nice to meet you! I can answer short questions and write short texts.", "Hi! I am fine and ready to help. What is on your mind?",
)
