"""Harmless everyday aims (verb phrases) and the word lists that fill the slots of everyday requests."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.replace("\n", "").split("|") if part.strip())


EVERYDAY_BLOCKS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = tuple((_words(v), _words(o)) for v, o in (
    ("bake|cook|make|prepare|serve|freeze|reheat", "sourdough bread|a chocolate cake|vegetable soup|rice|banana muffins|an omelette|pancakes|lasagna|"
     "a birthday cake|chicken curry|a simple salad|roast potatoes|apple pie|dumplings|pizza dough|lentil stew|cookies for a school sale|a vegan dinner|"
     "fried eggs|hummus|a fruit tart|breakfast for six people|a cheese omelette|tomato sauce|pasta from scratch|fish tacos|oat porridge"),
    ("grow|plant|water|prune|harvest|care for|fertilize|repot", "tomatoes|roses|a lemon tree|basil on a balcony|potatoes in a bucket|sunflowers|an orchid|"
     "strawberries|a bonsai|herbs indoors|a vegetable garden|lavender|an apple tree|tulips|cactus plants|carrots|a hedge"),
    ("learn|practise|teach children|study|improve at|get better at", "Spanish|chess|the guitar|swimming|algebra|typing|public speaking|the piano|juggling|French grammar|"
     "drawing|knitting|sign language|photography|Python|cooking|mental arithmetic|handwriting|touch typing|Italian|ballroom dancing|singing"),
    ("clean|repair|fix|paint|assemble|replace|polish|restore|maintain|move", "a leaking tap|a wooden table|a bicycle chain|a carpet|the kitchen sink|a bookshelf|a garden fence|"
     "an old chair|a squeaky door|a flat tire|the oven|window frames|a washing machine|a broken zipper|leather boots|a laptop screen|a coffee machine|the gutters|a piano|a sofa"),
    ("plan|organize|host|prepare for|budget for|book|enjoy", "a birthday party|a trip to Japan|a wedding|a picnic|a family reunion|a school fair|a road trip|a camping weekend|"
     "a team meeting|a surprise dinner|a charity run|a book club|a garage sale|a housewarming party|a holiday in Greece|a museum visit|a farewell lunch|a science fair|a hiking trip"),
    ("train for|prepare for|recover after|improve in|get ready for", "a marathon|a job interview|a driving test|a math exam|a piano recital|a long flight|a swimming race|a spelling contest|"
     "a new job|a hike|a chess tournament|a language exam|a dance show|a triathlon|a presentation"),
    ("save|earn|manage|budget|invest|set aside", "money for a house|money as a student|my monthly income|for retirement|a small pension|for a holiday|pocket money|household expenses|an emergency fund"),
    ("write|draft|edit|proofread|improve|shorten|format", "a cover letter|a thank you note|a wedding speech|a short story|a resume|a haiku|a report for my boss|a birthday card|a product description|"
     "a love poem|an apology to a friend|a meeting agenda|a complaint about a late parcel|a newsletter|lyrics for a lullaby|a press release|a research summary|a formal letter|an essay about trees|a travel diary"),
    ("install|update|set up|configure|uninstall|back up|debug|test|speed up", "a printer|Python on a laptop|a home router|a web server|a new phone|an email account|a database|a spreadsheet|a smart speaker|"
     "a backup drive|a code editor|an operating system|a game console|a virtual machine|a blog|a mail filter|a video call|an unit test suite"),
    ("sort|reverse|merge|filter|count|parse|print|search|split", "a list of numbers in Python|a string|two dictionaries|an array in Java|words in a text file|dates in a column|a JSON file|"
     "rows of a table|the lines of a log file|a linked list|prime numbers|duplicate entries|names by alphabet|a CSV file"),
    ("calculate|estimate|measure|convert|compare", "the area of a circle|miles to kilometers|the average of five numbers|a tip in a restaurant|Celsius to Fahrenheit|compound interest|the height of a tree|"
     "cups to grams|fuel costs|my body mass index|the volume of a box|a monthly mortgage payment|the distance to the moon|the speed of a train|time zones"),
    ("feed|train|adopt|wash|walk|look after|name", "a puppy|a kitten|a hamster|two goldfish|a parrot|an old dog|a rabbit|a horse|chickens in the garden|a turtle|a shy cat"),
    ("explain|understand|describe|summarize|teach|visualize", "photosynthesis|gravity|the water cycle|how vaccines work|inflation|the French Revolution|black holes|the rules of soccer|fractions|"
     "machine learning|the solar system|supply and demand|how a bill becomes law|the theory of evolution|electric circuits|plate tectonics|the human heart|recursion|democracy|the immune system|DNA|"
     "climate change|how airplanes fly|the stock market|quantum physics in simple words|the Renaissance"),
    ("choose|buy|compare|find|recommend|rent|sell", "a used car|a good mattress|running shoes|a laptop for school|a gift for my mother|a flat in Berlin|a camera for beginners|a winter coat|a bicycle for a child|"
     "noise-cancelling headphones|a family tent|a desk lamp|houseplants|a phone plan|a violin|a dictionary|a good dentist|a language school|second-hand furniture"),
    ("make|build|craft|decorate|sew|fold|design|draw|paint", "a paper airplane|a birdhouse|a scarf|a candle|a treehouse|a Halloween costume|a wooden box|a kite|a snowman|a greeting card|a lamp|a clay pot|"
     "an origami crane|a photo album|a puppet theatre|a logo for a bakery|a picture of a dragon|a friendship bracelet|a model train|a quilt|a simple robot|a board game"),
    ("reduce|handle|deal with|cope with|overcome|lower|avoid|prevent", "stress at work|food waste|jet lag|a fear of flying|noise from neighbors|a sore throat|back pain|exam nerves|screen time|energy use at home|"
     "plastic waste|homesickness|a heavy workload|clutter|a bad habit|boredom|dry skin|mosquito bites|procrastination|water bills|a headache|hay fever|sunburn"),
    ("stay|become|feel|be", "motivated|a better listener|healthy in winter|a good manager|more confident|calm before an exam|a nurse|an astronaut|more productive|polite in a foreign country|in touch with old friends|"
     "a volunteer|a better parent|happy at work|fit without a gym|awake in class|a kinder person|a good neighbor|on time"),
    ("ask|invite|thank|congratulate|welcome|help|encourage|comfort", "a friend who moved away|my teacher|a new neighbor|my grandmother|a colleague after a promotion|guests at a wedding|a shy student|my team|"
     "a customer who waited|a sick friend|my boss for a day off|the mail carrier|a cousin with homework|elderly people|a classmate|immigrants in our town|children"),
    ("play|win|score in|watch|follow|understand the rules of", "chess|poker with friends|tennis|a crossword puzzle|basketball|the World Cup|cricket|a card game|hide and seek|badminton|a video game|Scrabble|golf|volleyball|sudoku"),
    ("translate|rewrite|summarize|read aloud|memorize|correct|paraphrase", "a short poem|this paragraph in simple words|a letter into German|a news article|the sentence in the past tense|a menu from French|a contract in plain English|"
     "a chapter of my novel|an email in a friendly tone|a list of verbs|a recipe for four people|a fairy tale for children|a song text|the text into Spanish"),
    ("start|run|promote|grow|name|open|manage", "a small bakery|an online shop|a podcast|a community garden|a book club|a flower shop|a tutoring service|a food truck|a school newspaper|a bike repair shop|a charity for children|"
     "a choir|a youth football team|a travel blog|a startup|a neighborhood library|a dog walking service|a knitting circle"),
    ("protect|secure|defend|back up|check", "my home network|my passwords|my email account from hackers|children online|a website against attacks|my privacy on social media|my house against burglars|personal data|"
     "a bank account|my bike from thieves|elderly people from scams|a garden from frost|customer data|the environment|endangered animals|plants from insects"),
    ("support|promote|improve|measure|encourage|study", "public health in cities|biodiversity in a forest|students who struggle with reading|gender equality at work|recycling at school|crop yields|renewable energy|"
     "local farmers|cultural exchange|mental health of teenagers|traffic safety|voter turnout|scientific literacy|literacy in rural areas|access to clean water|critical thinking in class|historical research|"
     "the use of statistics in medicine|trust between nations|the preservation of languages|ethical research|team spirit"),
))

SUBJECTS: tuple[str, ...] = _words(
    "the sea|autumn|a lonely robot|my cat|friendship|rain|the moon|coffee|old trains|a lost key|space travel|a brave mouse|the first day of school|snow|a garden|time|mountains|a dragon who bakes|love|"
    "the city at night|a small village|honesty|the ocean|teamwork|bicycles|birds|books|grandparents|music|cheese|a rainy Monday|the desert|summer holidays|football|healthy eating|solar energy|recycling|"
    "artificial intelligence|a talking tree|a magic hat|the internet|ancient Rome|volcanoes|dinosaurs|honey bees|gravity|stars|the human brain|chocolate|dogs|kindness|wind|remote work|online learning|"
    "a new smartphone|a pirate ship|the color blue|a haunted house|winter mornings|tea|a clumsy wizard|the future|fear|the night sky|a broken clock|electric cars|jazz|public libraries|robots|bread|sleep|"
    "penguins|a detective in London|water|a knight without a horse|the river Nile|yoga|maps|elephants|family dinners|a lighthouse|the Olympic games|vegetables|a secret garden|gardening|childhood|spring|"
    "hope|travel|computer games|the alphabet|a sleepy bear|a train ride|fire|time travel|a battle between knights|a storm|poverty|war and peace|justice|democracy|privacy|a bank robbery in a film|"
    "a murder mystery in a hotel|a thief with a good heart|a villain who changes|the death of a star|nuclear energy|vaccines|a courtroom drama|the police in a small town|a fight between two cats|guns in history|drug research")

CREATIVE_KINDS: tuple[str, ...] = _words(
    "a haiku|a poem|a short story|a song|a limerick|a rap|a joke|a riddle|an essay|a paragraph|a blog post|an email|a speech|a slogan|a tweet|a letter|a fairy tale|a dialogue|a children's story|"
    "a news article|a two-line verse|a product review|a summary|a quiz|a lesson plan|a script for a short play|a diary entry|a headline|a fun fact|a motivational quote|three sentences|a short paragraph|a list of questions|"
    "a love letter|a postcard|a press release|a bedtime story|a sonnet|a mission statement|a journal prompt|a LinkedIn post|an acrostic|a toast|a caption|a tagline|a book review|a crossword clue|a short monologue")

LIST_KINDS: tuple[str, ...] = _words(
    "tips for|reasons to love|facts about|names for|questions about|ideas for|books about|ways to enjoy|advantages of|disadvantages of|examples of|words that describe|myths about|quotes about|rules for|activities about|"
    "songs about|films about|uses of|benefits of|gifts for a fan of|things to know about|synonyms for|adjectives for|hashtags for|titles for a story about|challenges of|the main ideas behind")

NUMBERS: tuple[str, ...] = _words("two|three|four|five|six|seven|eight|ten|some|a few|3|5|10|several|at least three|the top five|twenty|15|a dozen|100")

THINGS: tuple[str, ...] = _words(
    "apple|bridge|candle|river|planet|computer|violin|mountain|triangle|hurricane|glacier|battery|microscope|passport|rainbow|atom|novel|mirror|magnet|tornado|whale|pyramid|telescope|calendar|compass|"
    "democracy|metaphor|virus|cell|enzyme|noun|verb|sonnet|fraction|neuron|protein|algorithm|variable|comet|eclipse|tide|volcano|fossil|crystal|rocket|engine|piano|museum|bakery|harbor|lighthouse|cactus|"
    "butterfly|koala|shark|spider|owl|wolf|camel|penguin|tiger|dolphin|sparrow|turtle|ant|bee|horse|vaccine|hormone|vitamin|antibiotic|insulin|mortgage|pension|tariff|budget|inflation|dividend|tax|contract|"
    "treaty|constitution|senate|jury|monarchy|republic|colony|crusade|renaissance|plague|revolution|empire|samurai|viking|knight|castle|cannon|sword|catapult|submarine|black hole|supernova|quark|photon|isotope|"
    "keyboard|browser|compiler|database|firewall|password|router|pixel|spreadsheet|blockchain|cookie|cache|server|modem|loop|matrix|vector|integral|prime number|square root|hypothesis|theory|experiment")

PLACES: tuple[str, ...] = _words(
    "France|Japan|Peru|Kenya|Canada|Brazil|Norway|India|Egypt|Australia|Mexico|Germany|Italy|Turkey|Vietnam|Chile|Poland|Spain|Ireland|Nigeria|Iceland|Thailand|Greece|Portugal|Finland|Morocco|Mongolia|Nepal|"
    "Paris|London|Tokyo|Lima|Nairobi|Toronto|Oslo|Cairo|Sydney|Berlin|Rome|Istanbul|Hanoi|Warsaw|Madrid|Dublin|Lagos|Bangkok|Athens|Lisbon|Chicago|Boston|Seattle|New York|San Francisco|Mumbai|Shanghai|Seoul|Vienna|Prague|Zurich")

NAMES: tuple[str, ...] = _words(
    "Anna|Ben|Clara|David|Elena|Farid|Grace|Hugo|Ines|Jonas|Kira|Liam|Maya|Noah|Olga|Pedro|Quinn|Rosa|Samir|Tara|Uma|Victor|Wendy|Xavier|Yuki|Zoe|Alice|Bob|Carlos|Diana|Emma|Frank|Gina|Henry|Ivan|Julia|Kevin|Lena|Marco|Nadia|"
    "Oscar|Paula|Rahul|Sofia|Tom|Ursula|Vera|William|Yara|Zane|Aisha|Bruno|Chen|Dmitri|Fatima|Giulia|Hans|Ingrid|Jamal|Katya|Luca|Mei|Nina|Omar|Priya|Ravi|Sven|Tomas|Wei|Amara|Mr. Smith|Dr. Lee|Ms. Garcia|Professor Brown")

FAMOUS: tuple[str, ...] = _words(
    "Mozart|Marie Curie|Albert Einstein|Shakespeare|Frida Kahlo|Leonardo da Vinci|Isaac Newton|Cleopatra|Napoleon|Ada Lovelace|Charles Darwin|Vincent van Gogh|Jane Austen|Julius Caesar|Galileo|Nelson Mandela|Gandhi|"
    "Florence Nightingale|Alan Turing|Beethoven|Homer|Aristotle|Rosa Parks|Neil Armstrong|Genghis Khan|Abraham Lincoln|Queen Victoria|Picasso|Tolstoy|Agatha Christie|Al Capone|Joan of Arc")

LANGUAGES: tuple[str, ...] = _words("French|Spanish|German|Italian|Japanese|Latin|Portuguese|Dutch|Swedish|Polish|Hindi|Arabic|Korean|Turkish|Greek|Russian|Finnish|Chinese")
CODE_LANGUAGES: tuple[str, ...] = _words("Python|JavaScript|Java|C++|Rust|Go|SQL|HTML|bash|TypeScript|Ruby|R|PHP|Kotlin|Swift|C")
JOBS: tuple[str, ...] = _words("teacher|nurse|baker|pilot|gardener|engineer|chef|lawyer|carpenter|dentist|librarian|electrician|farmer|singer|plumber|designer|coach|vet|translator|architect|driver|waiter|judge|firefighter|police officer|soldier|scientist")
FOODS: tuple[str, ...] = _words("soup|salad|pizza|pasta|bread|rice|curry|tacos|pancakes|muffins|sushi|stew|pie|sandwiches|noodles|omelette|risotto|hummus|burgers|dumplings|ice cream|lasagna|smoothies|chili|porridge|cake|cookies|paella")
ANIMALS: tuple[str, ...] = _words("dogs|cats|horses|owls|bees|whales|ants|bears|sharks|wolves|frogs|snakes|penguins|tigers|spiders|bats|cows|goats|parrots|rabbits|foxes|lions|elephants|octopuses|crows|squirrels")
ADJECTIVES: tuple[str, ...] = _words("short|funny|simple|friendly|formal|polite|detailed|creative|sad|happy|long|clear|modern|gentle|scary|serious|beautiful|strong|quick|catchy|professional|casual|rhyming|concise|vivid")
VERBS: tuple[str, ...] = _words("sleep|dream|sing|float|migrate|hibernate|blink|laugh|dance|fly|change color|grow|purr|bark|swim|glow|fall in autumn|rust|freeze|evaporate|shine|yawn|sneeze|hiccup|float on water|bite|kill their prey|fight|die")
SENTENCES: tuple[str, ...] = _words(
    "The train leaves at noon.|I like to read in the garden.|She has gone to the market.|The meeting was moved to Friday.|We do not have enough chairs.|He forgot his umbrella again.|The soup is too hot.|They will visit us in spring.|"
    "my brother dont like fish|The results was better than expected.|Please send me the report.|The cat sat on the mat.|Where is the station?|I am sorry for the late reply.|The report is due on Monday.|Birds fly south in winter.|"
    "Our team won the final match.|The shop opens at nine.|Him and me went home.|It was raining the whole day.|The movie was not bad at all.|Good things take time.|We was late for dinner.|The company sells paper and pens.|"
    "The old bridge was closed last week.|She sells sea shells by the shore.|This phone has a great camera but a weak battery.|The hotel was clean and the staff was kind.|I loved this book!|The service was slow and the food cold.")
